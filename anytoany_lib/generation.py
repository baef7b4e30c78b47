"""Replies: tokens drawn one by one, signals that start a block, and the media made from them.

A model chooses a medium by the first signal of its block; the rest of the block is appended, not sampled, and read in
one forward pass whose hidden states become the decoder's condition. A block can therefore not be malformed, and text
goes on after it. `decode` works on any number of conversations at once; `stream` and `reply` are built on it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from anytoany_lib.batches import collate
from anytoany_lib.media import content_key
from anytoany_lib.messages import Encoded, Message
from anytoany_lib.modalities import MEDIA_KINDS

if TYPE_CHECKING:  # the model builds on this module
    from anytoany_lib.model import AnyToAny


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. Temperature 0 takes the likeliest token; `kinds` are the media it may contain."""

    temperature: float = 0.0
    top_p: float = 0.95
    max_new_tokens: int | None = None
    kinds: tuple[str, ...] = MEDIA_KINDS
    guidance: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class TextDelta:
    text: str


@dataclass(frozen=True)
class MediaStarted:
    index: int
    """Place of the medium among the reply's parts."""
    kind: str


@dataclass(frozen=True)
class MediaProgress:
    index: int
    done: int
    total: int


@dataclass(frozen=True)
class MediaReady:
    index: int
    part: dict[str, Any]


@dataclass(frozen=True)
class Done:
    message: Message
    finish_reason: str
    """ "stop", or "length" if the reply was cut at its limit."""


Event = TextDelta | MediaStarted | MediaProgress | MediaReady | Done


@dataclass
class Draft:
    """The reply of one conversation while it is drawn: parts, where a medium still has its condition only."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # of the text part being written
    length: int = 0
    finish_reason: str | None = None

    def text_part(self) -> dict[str, Any]:
        if not self.parts or self.parts[-1]["type"] != "text":
            self.parts.append({"type": "text", "text": ""})
            self.tokens = []
        return self.parts[-1]


class Memory:
    """What the language model has read of one conversation: a turn then reads only what is new.

    Kept are its keys and values with what stands at every position: a token's id, or a medium's content and which of its
    soft tokens.
    """

    def __init__(self):
        self.read: list[Any] = []
        self.cache = DynamicCache()

    def forget(self) -> None:
        """Begins anew: after an error nobody knows what was read."""
        self.__init__()

    def keep(self, positions: list[Any]) -> int:
        """Forgets what does not stand at the beginning of `positions`; how many are known, the last one never."""
        pairs = zip(self.read, positions[:-1], strict=False)
        known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if known < len(self.read):
            self.cache.crop(known - len(self.read))  # a negative number is how many to drop
            del self.read[known:]
        return known


def _positions(model: AnyToAny, prompt: Encoded) -> list[Any]:
    """What stands at every position of a prompt, as `Memory` compares it."""
    found: list[Any] = list(prompt.ids)
    for kind, medium, at in prompt.media:
        key = content_key(kind, medium)
        for k in range(model.messages.soft_tokens):
            found[at + k] = (key, k)
    return found


class _Writer:
    """Turns drawn tokens into the parts of a draft, holding back what may be the start of the end mark.

    The end mark is looked for in the text: there are several ways to write "###" in tokens.
    """

    def __init__(self, model: AnyToAny, limit: int):
        self.tokenizer, self.vocabulary = model.tokenizer, model.vocabulary
        self.stop, self.limit = model.messages.stop_text, limit

    def _held_back(self, text: str) -> int:
        """How many of the last characters are the beginning of the end mark."""
        longest = min(len(text), len(self.stop))
        return next((n for n in range(longest, 0, -1) if text.endswith(self.stop[:n])), 0)

    def add(self, draft: Draft, token: int) -> tuple[list[int], str]:
        """Takes a drawn token; returns the tokens that the LLM has to read next, and the text to show."""
        draft.length += 1
        kind = self.vocabulary.kind_started_by(token)
        if kind is not None:
            draft.parts.append({"type": kind})
            return list(self.vocabulary.signals[kind]), ""
        part = draft.text_part()
        ended = token == self.tokenizer.eos_token_id
        draft.tokens += [] if ended else [token]
        shown, mark, _ = self.tokenizer.decode(draft.tokens).partition(self.stop)
        if mark or ended:
            draft.finish_reason = "stop"
        elif draft.length >= self.limit:
            draft.finish_reason = "length"
        else:
            shown = shown[: len(shown) - self._held_back(shown)]
        if shown.endswith("\ufffd"):  # half of a character: its other bytes are still to come
            shown = part["text"]
        delta = shown[len(part["text"]) :]
        part["text"] = shown
        return [token], delta


def _chooser(
    model: AnyToAny, sampling: Sampling, seeds: Sequence[int]
) -> Callable[[torch.Tensor], list[int]]:
    """The function that draws one token a row from logits (B, V): what may not be drawn never is."""
    vocabulary = model.vocabulary
    allowed = {vocabulary.signals[kind][0] for kind in sampling.kinds if kind in vocabulary.signals}
    banned = [
        token for token in range(vocabulary.base_size, len(vocabulary)) if token not in allowed
    ]
    warpers = LogitsProcessorList()
    if sampling.temperature > 0:
        warpers += [TemperatureLogitsWarper(sampling.temperature), TopPLogitsWarper(sampling.top_p)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(logits: torch.Tensor) -> list[int]:
        """Logits (B, V) -> the next token of each row."""
        logits[:, banned] = -torch.inf
        if sampling.temperature == 0:
            return logits.argmax(-1).tolist()
        chances = warpers(None, logits).softmax(-1).cpu()
        return [
            int(torch.multinomial(row, 1, generator=generator))
            for row, generator in zip(chances, generators, strict=True)
        ]

    return choose


def _read(model: AnyToAny, chunks: list[list[int]], mask: torch.Tensor, cache: DynamicCache):
    """Feeds each row its chunk of tokens; returns hidden states (B, L, H) and the longer mask."""
    longest = max(map(len, chunks))
    ids = torch.tensor(
        [chunk + [0] * (longest - len(chunk)) for chunk in chunks], device=model.device
    )
    real = torch.tensor(
        [[1] * len(c) + [0] * (longest - len(c)) for c in chunks], device=model.device
    )
    positions = mask.sum(1, keepdim=True) + torch.arange(longest, device=model.device)
    mask = torch.cat([mask, real], dim=1)
    inputs = model.embed_inputs(ids, torch.empty(0), torch.empty(0, 2, dtype=torch.long))
    hidden = model.hidden_states(inputs, mask, position_ids=positions, past_key_values=cache)
    return hidden, mask


@torch.inference_mode()
def decode(
    model: AnyToAny,
    prompts: Sequence[Encoded],
    sampling: Sampling,
    seeds: Sequence[int],
    memory: Memory | None = None,
) -> Iterator[tuple[int, Draft, str]]:
    """Draws the replies to encoded prompts; yields (row, its draft, new text) whenever one grows.

    A medium's part has its "condition" (the projected hidden states) when it is yielded. The drafts are complete
    when the iterator ends; each has a finish reason. With a memory, which holds one conversation, there is one prompt.
    """
    memory = memory or Memory()
    try:
        yield from _decode(model, prompts, sampling, seeds, memory)
    except GeneratorExit:
        raise
    except (
        BaseException
    ):  # an interrupted kernel as well: the cache may end in the middle of a layer
        memory.forget()
        raise


def _decode(
    model: AnyToAny,
    prompts: Sequence[Encoded],
    sampling: Sampling,
    seeds: Sequence[int],
    memory: Memory,
) -> Iterator[tuple[int, Draft, str]]:
    limit = sampling.max_new_tokens or model.profile.llm.max_new_tokens
    writer, choose = _Writer(model, limit), _chooser(model, sampling, seeds)
    media = [(kind, medium) for prompt in prompts for kind, medium, _ in prompt.media]
    embeddings = iter(model.embed_media(media))
    width = model.profile.encoder.embedding
    batch = collate(prompts, lambda *_: next(embeddings), None, width, left=True).to(model.device)

    read = _positions(model, prompts[0]) if len(prompts) == 1 else []
    known = memory.keep(read)
    cache, mask = memory.cache, batch.mask
    inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)[:, known:]
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, known:]
    hidden = model.hidden_states(inputs, mask, position_ids=positions, past_key_values=cache)
    memory.read = read
    last = hidden[:, -1]
    drafts = [Draft() for _ in prompts]
    while any(draft.finish_reason is None for draft in drafts):
        chunks: list[list[int]] = [[] for _ in drafts]
        deltas: dict[int, str] = {}
        for row, token in enumerate(choose(model.logits(last))):
            if drafts[row].finish_reason is None:
                chunks[row], deltas[row] = writer.add(drafts[row], token)
        hidden, mask = _read(model, chunks, mask, cache)
        memory.read += chunks[0] if len(prompts) == 1 else []
        ends = torch.tensor([max(len(chunk) - 1, 0) for chunk in chunks], device=model.device)
        last = hidden[torch.arange(len(chunks), device=model.device), ends]
        for row, delta in deltas.items():
            part = drafts[row].parts[-1]
            if part["type"] != "text":
                states = hidden[row : row + 1, : len(chunks[row])]
                part["condition"] = model.project(part["type"], states)[0].cpu()
                if drafts[row].length >= limit:
                    drafts[row].finish_reason = "length"
            yield row, drafts[row], delta


def prepare(model: AnyToAny, messages: list[Message], sampling: Sampling) -> Encoded:
    """A conversation as a prompt, its oldest turns dropped if it would not leave room for the reply."""
    room = model.profile.llm.context - (sampling.max_new_tokens or model.profile.llm.max_new_tokens)
    return model.messages.encode_within(messages, room, prompt=True)[0]


def _finished(draft: Draft) -> Message:
    """The draft as an assistant message; text around media loses its outer blanks, empty text goes."""
    parts = []
    for part in draft.parts:
        if part["type"] == "text":
            part = {"type": "text", "text": part["text"].strip()}
            if not part["text"]:
                continue
        parts.append({key: value for key, value in part.items() if key != "condition"})
    return {"role": "assistant", "content": parts}


class _Cancelled(Exception):
    """Raised inside a diffusion loop whose consumer has gone."""


def _with_progress(
    work: Callable[[Callable[[int, int], None]], Any],
) -> Iterator[tuple[int, int] | Any]:
    """Runs `work(on_step)` in a thread; yields its (done, total) steps, then what it returned.

    Closing the iterator ends the work at its next step.
    """
    news: queue.SimpleQueue = queue.SimpleQueue()
    gone = threading.Event()

    def on_step(done: int, total: int) -> None:
        if gone.is_set():
            raise _Cancelled
        news.put(("step", (done, total)))

    def run() -> None:
        """The work, on its thread; how it ended is the last of the news."""
        try:
            news.put(("result", work(on_step)))
        except _Cancelled:
            news.put(("cancelled", None))
        except BaseException as error:  # handed over to the consumer, which raises it
            news.put(("error", error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            what, value = news.get()
            if what == "error":
                raise value
            yield what, value
            if what == "result":
                return
    finally:
        gone.set()
        thread.join()


def stream(
    model: AnyToAny,
    messages: list[Message],
    seed: int = 0,
    sampling: Sampling | None = None,
    memory: Memory | None = None,
) -> Iterator[Event]:
    """The reply to a conversation, event by event: its text first, then the media in order.

    Closing the iterator stops it, within one diffusion step. The same seed gives the same reply. What a `memory` holds
    of the conversation is not read again.
    """
    sampling = sampling or Sampling()
    draft = Draft()
    prompt = prepare(model, messages, sampling)
    for _, draft, delta in decode(model, [prompt], sampling, [seed], memory):
        if delta:
            yield TextDelta(delta)
        elif draft.parts[-1]["type"] != "text":
            yield MediaStarted(len(draft.parts) - 1, draft.parts[-1]["type"])
    for index, part in enumerate(draft.parts):
        if part["type"] == "text":
            continue

        def work(on_step, part=part, index=index):
            how = (sampling.steps, sampling.guidance, on_step)
            return model.render(part["type"], part["condition"][None], [seed + index], *how)[0]

        for what, value in _with_progress(work):
            if what == "step":
                yield MediaProgress(index, *value)
            else:
                part.update(value)
        yield MediaReady(index, {key: value for key, value in part.items() if key != "condition"})
    yield Done(_finished(draft), draft.finish_reason or "stop")


def draw_all(
    model: AnyToAny,
    conversations: Sequence[list[Message]],
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 16,
) -> list[Draft]:
    """The replies to many conversations as drafts, in batches of like length: a medium's part has its condition only."""
    sampling = sampling or Sampling()
    prompts = [prepare(model, messages, sampling) for messages in conversations]
    drafts: dict[int, Draft] = {}
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids))
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        for at, draft, _ in decode(
            model, [prompts[r] for r in rows], sampling, [seed + r for r in rows]
        ):
            drafts[rows[at]] = draft
    return [drafts[row] for row in range(len(conversations))]


def reply_all(
    model: AnyToAny,
    conversations: Sequence[list[Message]],
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 16,
) -> list[Message]:
    """The replies to many conversations, text and media each in batches; what an evaluation calls."""
    sampling = sampling or Sampling()
    drafts = draw_all(model, conversations, seed, sampling, batch_size)
    wanted = [
        (row, index, part)
        for row, draft in enumerate(drafts)
        for index, part in enumerate(draft.parts)
        if part["type"] != "text"
    ]
    for kind in dict.fromkeys(part["type"] for _, _, part in wanted):
        of_kind = [item for item in wanted if item[2]["type"] == kind]
        for start in range(0, len(of_kind), batch_size):
            group = of_kind[start : start + batch_size]
            conditions = torch.stack([part["condition"] for _, _, part in group])
            seeds = [seed + row + index for row, index, _ in group]
            made = model.render(kind, conditions, seeds, sampling.steps, sampling.guidance)
            for (_, _, part), payload in zip(group, made, strict=True):
                part.update(payload)
    return [_finished(draft) for draft in drafts]
