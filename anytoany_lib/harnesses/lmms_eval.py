"""lmms-eval: a run as that harness's model "anytoany", in both of its interfaces.

    python -m lmms_eval --model anytoany --model_args run=RUN,batch_size=16 --tasks mvbench

`ChatAnyToAny` reads a task's messages, media where they stand in them. `SimpleAnyToAny` (--force_simple) reads media first, as
the dataset has them, and knows likelihoods: for tasks that ask for them, and for sounds that are columns of a dataset, which
messages of version 0.7.3 lose. Replies are text alone, drawn by a task's temperature, top_p, max_new_tokens and until.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from PIL import Image
from torch.nn import functional as F
from tqdm.auto import tqdm

from anytoany_lib.evaluation.stored_replies import draw, message_of
from anytoany_lib.generation.events import PartialReply
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media.file_types import kind_by_name
from anytoany_lib.messages import IGNORED, Message, Part
from anytoany_lib.model import AnyToAny

_BATCHES = 4  # whose media are opened at once; requests of like length among them share a batch
_SPANS = ("video_start", "video_end", "start_time", "end_time")


def as_part(medium: Any, kind: str | None = None) -> Part:
    """A medium as tasks have it -> the part of a message.

    It is a picture, a path, a sound of `datasets` ({"array", "sampling_rate"}, or a decoder of torchcodec), or one of these as
    {"path" or "url", "type"}. Without `kind` the ending of a path says of which kind it is. ValueError for others.
    """
    if isinstance(medium, Image.Image):
        return {"type": "image", "image": medium}
    if hasattr(medium, "get_all_samples"):
        sound = medium.get_all_samples()
        return {"type": "audio", "audio": (sound.data.numpy(), sound.sample_rate)}
    if isinstance(medium, dict):
        if "array" in medium:
            return {"type": "audio", "audio": (medium["array"], medium["sampling_rate"])}
        if any(medium.get(name) is not None for name in _SPANS):
            raise ValueError(f"a part of a medium is not read, the task asks for one: {medium}")
        return as_part(medium.get("path") or medium.get("url"), medium.get("type", kind))
    kind = kind or (kind_by_name(medium) if isinstance(medium, str | Path) else None)
    if kind is None or not isinstance(medium, str | Path):
        raise ValueError(f"expected a picture, a sound or a medium's path, found {medium!r:.120}")
    return {"type": kind, kind: medium}


def _as_message(message: dict[str, Any]) -> Message:
    """A message of the harness's protocol, {"type": "image", "url": ...} among its content, as this kit writes it."""
    parts = [part if part["type"] == "text" else as_part(part) for part in message["content"]]
    return {"role": message["role"], "content": parts}


def _sampling(model: AnyToAny, settings: dict[str, Any]) -> Sampling:
    """How replies are drawn, by a task's generation_kwargs: the likeliest words unless it sets a temperature."""
    longest, drawn = model.profile.llm.max_new_tokens, settings.get("do_sample", True)
    return Sampling(
        temperature=float(settings.get("temperature") or 0) if drawn else 0.0,
        top_p=float(settings.get("top_p") or 1),
        max_new_tokens=min(int(settings.get("max_new_tokens") or longest), longest),
        kinds=(),
    )


def _until(text: str, stops: str | Sequence[str] | None) -> str:
    """A reply up to the first of the texts that end it."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.partition(stop)[0] if stop else text
    return text.strip()


class SimpleAnyToAny(lmms):
    """A run in the simple interface: a task's media and then its text, as one message of the user's."""

    is_simple = True

    def __init__(
        self, run: str, batch_size: int | str = 1, seed: int = 0, device: str | None = None
    ):
        """Loads a run (a path, a URL, or OWNER/NAME on the hub). The first reply has this seed, each further one the next."""
        super().__init__()
        self.model = AnyToAny.from_pretrained(run, torch.device(device) if device else None)
        self.batch_size, self.seed = int(batch_size), int(seed)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> SimpleAnyToAny:
        """A model by --model_args, which go before the harness's own options, such as its batch size of 1."""
        own = {name: (additional_config or {}).get(name) for name in ("batch_size", "device")}
        said = simple_parse_args_string(arg_string)
        return cls(**{name: value for name, value in own.items() if value is not None} | said)

    @property
    def device(self) -> torch.device:
        """Where the language model is; the harness asks where several processes share a task."""
        return self.model.device

    def _message(self, text: str, to_media: Any, document: dict[str, Any]) -> Message:
        parts = [as_part(medium) for medium in to_media(document) or ()]
        return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}

    def _settings(self, request: Instance) -> dict[str, Any]:
        return request.args[1]

    def _conversation(self, request: Instance) -> list[Message]:
        text, _, to_media, number, task, split = request.args
        return [self._message(text, to_media, self.task_dict[task][split][number])]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The replies to requests, as text. A medium that cannot be read is an empty reply, and a warning with its document."""
        texts: list[str] = []
        with tqdm(total=len(requests), desc="replies", disable=self.rank != 0) as bar:
            for settings, alike in groupby(requests, self._settings):
                for chunk in _portions(list(alike), _BATCHES * self.batch_size):
                    texts += self._replies(chunk, settings, self.seed + len(texts))
                    bar.update(len(chunk))
        return texts

    def _replies(
        self, requests: Sequence[Instance], settings: dict[str, Any], seed: int
    ) -> Iterator[str]:
        """The replies to requests of the same settings, the first of which has this seed."""
        asked = list(map(self._conversation, requests))
        drawn = draw(self.model, asked, seed, _sampling(self.model, settings), self.batch_size)
        for request, parts in zip(requests, drawn, strict=True):
            for reason in message_of(parts).get("failed", ()):
                place = f"{request.task_name}, document {request.doc_id}"
                logging.getLogger(__name__).warning("%s counts as empty: %s", place, reason)
            yield _until(PartialReply(parts).text(), settings.get("until"))

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """(mean cross entropy of the answer in nats a token, whether it is the likeliest one) of each request: a loss, of which
        the harness's multiple choice takes the least. Version 0.7.3 makes a text of it, unless it comes as the result of a
        generation, which --use_cache does not take. MediaError if a medium cannot be read.
        """
        scores: list[GenerationResult] = []
        for chunk in tqdm(_portions(requests, self.batch_size), desc="likelihoods"):
            scores += self._scores(list(map(self._answered, chunk)))
        return scores

    def _answered(self, request: Instance) -> list[Message]:
        """A request for a likelihood with its answer, which has a blank before it for texts that go on."""
        text, answer, to_media, number, task, split = request.args
        document = self.task_dict[task][split][number]
        answer = str(answer(document) if callable(answer) else answer).strip()
        asked = self._message(text, to_media, document)
        return [asked, {"role": "assistant", "content": answer}]

    @torch.inference_mode()
    def _scores(self, conversations: Sequence[list[Message]]) -> Iterator[GenerationResult]:
        """What `loglikelihood` gives, of conversations that end with the answer."""
        model = self.model
        batch = model.processor(conversations)
        inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)
        hidden = model.hidden_states(inputs, batch.mask, use_cache=False)[:, :-1]
        for states, labels in zip(hidden, batch.labels[:, 1:], strict=True):
            learnt = labels != IGNORED
            logits, answer = model.logits(states[learnt]), labels[learnt]
            likeliest = bool((logits.argmax(-1) == answer).all())
            yield GenerationResult((F.cross_entropy(logits, answer).item(), likeliest))

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Tasks in which replies lead to the next request are not run: NotImplementedError."""
        raise NotImplementedError("anytoany runs tasks of one reply, and of likelihoods")


class ChatAnyToAny(SimpleAnyToAny):
    """A run in the chat interface: a task's messages, media where they stand. The harness asks no likelihoods of it."""

    is_simple = False

    def _settings(self, request: Instance) -> dict[str, Any]:
        return request.args[2]

    def _conversation(self, request: Instance) -> list[Message]:
        _, to_messages, _, number, task, split = request.args
        return [_as_message(one) for one in to_messages(self.task_dict[task][split][number])]


def _portions(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Items in their order, so many at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]
