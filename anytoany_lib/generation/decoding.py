"""Tokens drawn one by one: text that grows, and signals that start a block.

A model chooses a medium by the first signal of its block; the rest of the block is appended, not sampled, and read in
one forward pass whose hidden states become the decoder's condition. A block can therefore not be malformed, and text
goes on after it. `decode` works on any number of conversations at once; what is finished leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from anytoany_lib.batches import collate
from anytoany_lib.generation.choosing import check_finite, penalised, warpers
from anytoany_lib.generation.events import PartialReply, said_part
from anytoany_lib.generation.kv_cache import PrefixCache
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.messages import Encoded, Part
from anytoany_lib.modalities import SPEECH
from anytoany_lib.system.out_of_memory import is_out_of_memory

if TYPE_CHECKING:  # the model builds on this module
    from anytoany_lib.model import AnyToAny


@dataclass
class Draft(PartialReply):
    """The reply of one conversation while it is drawn; a medium's part has the "condition" that it is made from."""

    tokens: list[int] = field(default_factory=list)  # of the text part being written
    length: int = 0
    finish_reason: str | None = None
    beginning: dict[str, Any] = field(default_factory=dict)  # of its pictures, see `edits`

    def text_part(self) -> Part:
        """The text that is being written: the last part, a new one behind a medium."""
        if not self.parts or self.parts[-1]["type"] != "text":
            self.tokens = []
        return super().text_part()


def never() -> bool:
    """Nobody asks to stop."""
    return False


class _Writer:
    """Turns drawn tokens into the parts of a draft, holding back what may be the start of the end mark or of a stop string.

    The end mark is looked for in the text: there are several ways to write "###" in tokens.
    """

    def __init__(self, model: AnyToAny, limit: int, stops: tuple[str, ...]):
        self.tokenizer, self.vocabulary = model.tokenizer, model.vocabulary
        self.stops, self.limit = (model.messages.stop_text, *stops), limit

    def _held_back(self, text: str) -> int:
        """How many of the last characters are the beginning of what ends a reply."""
        longest = min(len(text), max(map(len, self.stops)))
        begins = (n for n in range(longest, 0, -1) for s in self.stops if s.startswith(text[-n:]))
        return next(begins, 0)

    def add(self, draft: Draft, token: int) -> tuple[list[int], str]:
        """Takes a drawn token; returns the tokens that the LLM has to read next, and the text to show."""
        draft.length += 1
        kind = self.vocabulary.kind_started_by(token)
        if kind is not None:
            draft.parts.append({"type": kind})
            return list(self.vocabulary.signals[kind]), ""
        if token == self.vocabulary.say:
            draft.parts.append(said_part())
            draft.tokens = []
            draft.finish_reason = "length" if draft.length >= self.limit else None
            return [] if draft.finish_reason else [token], ""
        part = draft.text_part()
        ended = token == self.tokenizer.eos_token_id
        draft.tokens += [] if ended else [token]
        shown = self.tokenizer.decode(draft.tokens)
        if ends := [at for stop in self.stops if (at := shown.find(stop)) >= 0]:
            shown = shown[: min(ends)]
        if ends or ended:
            draft.finish_reason = "stop"
        elif draft.length >= self.limit:
            draft.finish_reason = "length"
        else:
            shown = shown[: len(shown) - self._held_back(shown)]
        if shown.endswith("\ufffd"):  # half of a character: its other bytes are still to come
            shown = part["text"]
        delta = shown[len(part["text"]) :]
        part["text"] = shown
        # Nobody asks what comes after the last token: if the talk goes on, the next turn reads it among its own.
        return [] if draft.finish_reason else [token], delta


def _chooser(
    model: AnyToAny, sampling: Sampling, seeds: Sequence[int]
) -> Callable[[torch.Tensor, Sequence[int]], list[int]]:
    """The function that draws one token a row from logits: what may not be drawn never is."""
    vocabulary = model.vocabulary
    allowed = {vocabulary.signals[kind][0] for kind in sampling.kinds if kind in vocabulary.signals}
    if SPEECH in sampling.kinds and vocabulary.say is not None:
        allowed.add(vocabulary.say)
    banned = [
        token for token in range(vocabulary.base_size, len(vocabulary)) if token not in allowed
    ]
    warp = warpers(sampling)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(logits: torch.Tensor, rows: Sequence[int]) -> list[int]:
        """Logits (B, V) of these rows -> the next token of each."""
        logits[:, banned] = -torch.inf
        if sampling.temperature == 0:
            tokens = logits.argmax(-1)
            check_finite(logits.gather(-1, tokens[:, None]), model)  # the largest, or no number
            return tokens.tolist()
        chances = warp(None, logits).softmax(-1).cpu()
        check_finite(chances, model)
        return [
            int(torch.multinomial(of_row, 1, generator=generators[row]))
            for of_row, row in zip(chances, rows, strict=True)
        ]

    return choose


def _read(
    model: AnyToAny, chunks: list[list[int]], mask: torch.Tensor, cache: DynamicCache
) -> tuple[torch.Tensor, torch.Tensor]:
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
    cache: PrefixCache | None = None,
    stopping: Callable[[], bool] = never,
) -> Generator[tuple[int, Draft, str], None, None]:
    """Draws the replies to encoded prompts; yields (row, its draft, new text) for every token drawn.

    A medium's part has its "condition" (the projected hidden states) when it is yielded. The drafts are complete
    when the iterator ends; each has a finish reason, unless `stopping()` ended it before. With a cache, which holds
    one conversation, there is one prompt. Where the device has no room, encoder and decoders leave it, and what has not
    begun is tried once more; then OutOfMemoryError says what to do, and leaves the device's memory free. RuntimeError, which
    says what to do as well, if the logits are not finite.
    """
    cache = cache or PrefixCache()
    for _ in range(2):
        begun = False
        try:
            for drawn in _decode(model, prompts, sampling, seeds, cache, stopping):
                begun = True
                yield drawn
            return
        except GeneratorExit:
            raise
        except BaseException as error:
            # An interrupted kernel too: the cache may end in the middle of a layer.
            cache.forget()
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        # Outside the handler, where nothing refers any more to the tensors of the pass that failed.
        model.make_room()
        if begun:  # what was said cannot be taken back
            break
    raise torch.OutOfMemoryError(
        f"{model.device} has no room to read {sum(len(prompt.ids) for prompt in prompts)} tokens and reply: shorten the "
        "history (fewer turns or media), ask for less at a time, close other programs that use the device, or choose a "
        f"smaller profile ({reason})"
    )


def _positions(model: AnyToAny, prompt: Encoded, keys: list[str]) -> list[Any]:
    """What stands at every position of a prompt, as `PrefixCache` compares it."""
    positions: list[Any] = list(prompt.ids)
    for key, (_, _, at) in zip(keys, prompt.media, strict=True):
        for k in range(model.messages.soft_tokens):
            positions[at + k] = (key, k)
    return positions


def read_prompts(
    model: AnyToAny, prompts: Sequence[Encoded], cache: PrefixCache
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads what is new in the prompts; returns their last hidden states (B, H) and the mask (B, T)."""
    media = [(kind, medium) for prompt in prompts for kind, medium, _ in prompt.media]
    keys = cache.media_keys(media)
    embeddings = iter(model.embed_media(media, keys))
    width = model.profile.encoder.embedding
    batch = collate(prompts, lambda *_: next(embeddings), None, width, left=True).to(model.device)
    stands = _positions(model, prompts[0], keys) if len(prompts) == 1 else []
    known = cache.keep(stands)
    inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)[:, known:]
    positions = (batch.mask.cumsum(1) - 1).clamp(min=0)[:, known:]
    cached = {"position_ids": positions, "past_key_values": cache.past_key_values}
    hidden = model.hidden_states(inputs, batch.mask, **cached)
    cache.positions = stands
    return hidden[:, -1], batch.mask


def _only(
    rows: list[int], batch: list[int], mask: torch.Tensor, cache: DynamicCache
) -> torch.Tensor:
    """Forgets those of a batch that are not among `rows`; returns the mask of the others."""
    if len(rows) == len(batch):
        return mask
    at = torch.tensor([batch.index(row) for row in rows], device=mask.device)
    cache.batch_select_indices(at)
    return mask[at]


def _decode(
    model: AnyToAny,
    prompts: Sequence[Encoded],
    sampling: Sampling,
    seeds: Sequence[int],
    cache: PrefixCache,
    stopping: Callable[[], bool],
) -> Generator[tuple[int, Draft, str], None, None]:
    limit = sampling.max_new_tokens or model.profile.llm.max_new_tokens
    writer, choose = _Writer(model, limit, sampling.stop_strings), _chooser(model, sampling, seeds)
    choose = penalised(choose, sampling, [p.ids for p in prompts], model.vocabulary.base_size)
    last, mask = read_prompts(model, prompts, cache)
    drafts = [Draft() for _ in prompts]
    rows = batch = list(range(len(drafts)))  # whose reply goes on, and who is in the cache
    while rows and not stopping():
        tokens = choose(model.logits(last), rows)
        drawn = {row: writer.add(drafts[row], t) for row, t in zip(rows, tokens, strict=True)}
        for row, (_, delta) in drawn.items():
            if drafts[row].parts[-1]["type"] == "text":
                yield row, drafts[row], delta  # before the language model reads on
        reading = [row for row in rows if drawn[row][0]]
        if not reading:
            break
        mask, batch = _only(reading, batch, mask, cache.past_key_values), reading
        chunks = [drawn[row][0] for row in reading]
        hidden, mask = _read(model, chunks, mask, cache.past_key_values)
        cache.positions += chunks[0] if len(prompts) == 1 else []
        states = {row: h[: len(c)] for row, h, c in zip(reading, hidden, chunks, strict=True)}
        for row in reading:
            part = drafts[row].parts[-1]
            if part["type"] != "text":
                part["condition"] = model.project(part["type"], states[row][None])[0].cpu()
                if drafts[row].length >= limit:
                    drafts[row].finish_reason = "length"
                yield row, drafts[row], ""
        rows = [row for row in reading if drafts[row].finish_reason is None]
        last = torch.stack([states[row][-1] for row in rows]) if rows else last
