"""Replies: tokens drawn one by one, signals that start a block, and the media made from them.

A model chooses a medium by the first signal of its block; the rest of the block is appended, not sampled, and read in
one forward pass whose hidden states become the decoder's condition. A block can therefore not be malformed, and text
goes on after it. `decode` works on any number of conversations at once; `stream` and `reply_all` are built on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from anytoany_lib.background import Stopped, followed
from anytoany_lib.batches import collate
from anytoany_lib.decoders import BrokenMedia
from anytoany_lib.events import (
    Done,
    Event,
    Loading,
    MediaFailed,
    MediaProgress,
    MediaReady,
    MediaStarted,
    TextDelta,
    TurnsDropped,
)
from anytoany_lib.messages import Encoded, Message, Part
from anytoany_lib.recall import Memory
from anytoany_lib.sampling import Sampling

if TYPE_CHECKING:  # the model builds on this module
    from anytoany_lib.model import AnyToAny

# Of the room for a history that has outgrown it: what is kept, so that the next turns find the same beginning.
_KEPT = 0.75
# Between the seeds of a reply's media: more than an evaluation has rows, whose seeds follow one another.
_PART_STRIDE = 1_000_003


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

    def said(self) -> str:
        """What the reply says in words."""
        return " ".join(part["text"].strip() for part in self.parts if part["type"] == "text")


def _never() -> bool:
    return False


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
        # Nobody asks what comes after the last token: if the talk goes on, the next turn reads it among its own.
        return [] if draft.finish_reason else [token], delta


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
    stopping: Callable[[], bool] = _never,
) -> Iterator[tuple[int, Draft, str]]:
    """Draws the replies to encoded prompts; yields (row, its draft, new text) after every token.

    A medium's part has its "condition" (the projected hidden states) when it is yielded. The drafts are complete
    when the iterator ends; each has a finish reason, unless `stopping()` ended it before. With a memory, which holds
    one conversation, there is one prompt. Where the device has no room, encoder and decoders leave it, and what has not
    begun is tried once more; then OutOfMemoryError says what to do, and leaves the device's memory free.
    """
    memory = memory or Memory()
    for _ in range(2):
        begun = False
        try:
            for drawn in _decode(model, prompts, sampling, seeds, memory, stopping):
                begun = True
                yield drawn
            return
        except GeneratorExit:
            raise
        except torch.OutOfMemoryError as error:
            found = str(error)
        except (
            BaseException
        ):  # an interrupted kernel too: the cache may end in the middle of a layer
            memory.forget()
            raise
        # Outside the handler, where nothing refers any more to the tensors of the pass that failed.
        memory.forget()
        model.make_room()
        if begun:  # what was said cannot be taken back
            break
    raise torch.OutOfMemoryError(
        f"{model.device} has no room to read {sum(len(prompt.ids) for prompt in prompts)} tokens and reply: shorten the "
        "history (fewer turns or media), ask for less at a time, close other programs that use the device, or choose a "
        f"smaller profile ({found})"
    )


def _positions(model: AnyToAny, prompt: Encoded, keys: list[str]) -> list[Any]:
    """What stands at every position of a prompt, as `Memory` compares it."""
    found: list[Any] = list(prompt.ids)
    for key, (_, _, at) in zip(keys, prompt.media, strict=True):
        for k in range(model.messages.soft_tokens):
            found[at + k] = (key, k)
    return found


def _read_prompts(
    model: AnyToAny, prompts: Sequence[Encoded], memory: Memory
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads what is new in the prompts; returns their last hidden states (B, H) and the mask (B, T)."""
    media = [(kind, medium) for prompt in prompts for kind, medium, _ in prompt.media]
    keys = memory.keys(media)
    embeddings = iter(model.embed_media(media, keys))
    width = model.profile.encoder.embedding
    batch = collate(prompts, lambda *_: next(embeddings), None, width, left=True).to(model.device)
    read = _positions(model, prompts[0], keys) if len(prompts) == 1 else []
    known = memory.keep(read)
    inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)[:, known:]
    positions = (batch.mask.cumsum(1) - 1).clamp(min=0)[:, known:]
    cached = {"position_ids": positions, "past_key_values": memory.cache}
    hidden = model.hidden_states(inputs, batch.mask, **cached)
    memory.read = read
    return hidden[:, -1], batch.mask


def _decode(
    model: AnyToAny,
    prompts: Sequence[Encoded],
    sampling: Sampling,
    seeds: Sequence[int],
    memory: Memory,
    stopping: Callable[[], bool],
) -> Iterator[tuple[int, Draft, str]]:
    limit = sampling.max_new_tokens or model.profile.llm.max_new_tokens
    writer, choose = _Writer(model, limit), _chooser(model, sampling, seeds)
    last, mask = _read_prompts(model, prompts, memory)
    drafts = [Draft() for _ in prompts]
    while any(draft.finish_reason is None for draft in drafts) and not stopping():
        chunks: list[list[int]] = [[] for _ in drafts]
        deltas: dict[int, str] = {}
        for row, token in enumerate(choose(model.logits(last))):
            if drafts[row].finish_reason is None:
                chunks[row], deltas[row] = writer.add(drafts[row], token)
        if any(chunks):
            hidden, mask = _read(model, chunks, mask, memory.cache)
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


def prepare(
    model: AnyToAny, messages: list[Message], sampling: Sampling | None = None
) -> tuple[Encoded, int]:
    """A conversation as a prompt that leaves room for the reply, and how many of its oldest messages that cost.

    Raises ValueError if the last turn alone leaves none.
    """
    reply = (sampling or Sampling()).max_new_tokens or model.profile.llm.max_new_tokens
    room = model.profile.llm.context - reply
    return model.messages.encode_within(messages, room, prompt=True, keep=_KEPT)


def finished(parts: list[Part]) -> Message:
    """The parts of a reply as an assistant message: without outer blanks, empty text, and media that were not made."""
    whole = [
        {key: value for key, value in part.items() if key != "condition"}
        for part in parts
        if (part["text"].strip() if part["type"] == "text" else part["type"] in part)
    ]
    # Blanks around media are kept: the next turn then reads the tokens that were drawn.
    for part, strip in [(whole[0], str.lstrip), (whole[-1], str.rstrip)] if whole else []:
        if part["type"] == "text":
            part["text"] = strip(part["text"])
    return {"role": "assistant", "content": whole}


def media_seed(seed: int, index: int) -> int:
    """The seed of the medium that is part `index` of a reply with this seed."""
    return seed + _PART_STRIDE * index


def _look(
    model: AnyToAny, prompt: Encoded, memory: Memory, stopping: Callable[[], bool]
) -> Iterator[Event]:
    """Has the encoder see what it has not seen yet, so that `decode` finds all embeddings at hand."""
    media = [(kind, medium) for kind, medium, _ in prompt.media]
    keys = memory.keys(media)
    if all(model.knows(key) for key in keys):
        return
    if not model.loaded("encoder"):
        yield Loading("encoder")
    yield from followed(model.worker, lambda report: model.embed_media(media, keys), stopping)


def _make(
    model: AnyToAny,
    draft: Draft,
    index: int,
    seed: int,
    sampling: Sampling,
    stopping: Callable[[], bool],
) -> Iterator[Event]:
    """Makes a medium from its condition and puts it into its part; one that cannot be made ends nothing else."""
    part = draft.parts[index]
    if not model.loaded(part["type"]):
        yield Loading(part["type"])

    def work(report: Callable[[Event], None]) -> Part:
        """The medium, on the model's worker; its steps are reported."""

        def on_step(*step: Any) -> None:
            report(MediaProgress(index, *step))

        how = (sampling.steps, sampling.guidance, on_step)
        more = (sampling.frames, sampling.seconds, sampling.preview_every)
        return model.render(part["type"], part["condition"][None], [seed], *how, *more)[0]

    try:
        part.update((yield from followed(model.worker, work, stopping)))
    except Stopped:
        raise
    except Exception as error:
        yield MediaFailed(index, error)
    else:
        yield MediaReady(index, {key: value for key, value in part.items() if key != "condition"})


def stream(
    model: AnyToAny,
    messages: list[Message],
    seed: int = 0,
    sampling: Sampling | None = None,
    memory: Memory | None = None,
    stopping: Callable[[], bool] = _never,
) -> Iterator[Event]:
    """The reply to a conversation, event by event: its text first, then the media in order.

    The same seed gives the same reply. What a `memory` holds of the conversation is not read again. Once `stopping()`,
    which is asked between tokens and while encoder and decoders work, the reply is Done with what is finished of it.
    Closing the iterator ends it as well.
    """
    sampling, memory = sampling or Sampling(), memory or Memory()
    prompt, dropped = prepare(model, messages, sampling)
    if dropped:
        yield TurnsDropped(dropped)
    draft = Draft()
    try:
        yield from _look(model, prompt, memory, stopping)
        for _, draft, delta in decode(model, [prompt], sampling, [seed], memory, stopping):
            if delta:
                yield TextDelta(delta)
            elif draft.parts[-1]["type"] != "text":
                yield MediaStarted(len(draft.parts) - 1, draft.parts[-1]["type"])
        if draft.finish_reason is None:
            raise Stopped
        for index, part in enumerate(draft.parts):
            if part["type"] != "text":
                yield from _make(model, draft, index, media_seed(seed, index), sampling, stopping)
    except Stopped:
        draft.finish_reason = "stopped"
    yield Done(finished(draft.parts), draft.finish_reason)


def draw_all(
    model: AnyToAny,
    conversations: Sequence[list[Message]],
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 16,
) -> list[Draft]:
    """The replies to many conversations as drafts, in batches of like length: a medium's part has its condition only."""
    sampling = sampling or Sampling()
    prompts = [prepare(model, messages, sampling)[0] for messages in conversations]
    drafts: dict[int, Draft] = {}
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids))
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        for at, draft, _ in decode(
            model, [prompts[r] for r in rows], sampling, [seed + r for r in rows]
        ):
            drafts[rows[at]] = draft
    return [drafts[row] for row in range(len(conversations))]


def render_all(
    model: AnyToAny,
    drafts: Sequence[Draft],
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 16,
) -> None:
    """Makes the media of drafts from their conditions, a kind at a time; the seed is the one that drew the drafts.

    A medium that comes out broken has "failed", why, in its part and ends nothing else.
    """
    sampling = sampling or Sampling()
    wanted = [
        (media_seed(seed + row, index), part)
        for row, draft in enumerate(drafts)
        for index, part in enumerate(draft.parts)
        if part["type"] != "text"
    ]
    how = (sampling.steps, sampling.guidance, None, sampling.frames, sampling.seconds)
    for kind in dict.fromkeys(part["type"] for _, part in wanted):
        of_kind = [item for item in wanted if item[1]["type"] == kind]
        for start in range(0, len(of_kind), batch_size):
            seeds, parts = zip(*of_kind[start : start + batch_size], strict=True)
            conditions = torch.stack([part["condition"] for part in parts])
            try:
                made, reason = model.render(kind, conditions, seeds, *how), ""
            except BrokenMedia as error:
                made, reason = error.made, str(error)
            for part, payload in zip(parts, made, strict=True):
                part.update(payload or {"failed": reason})


def reply_all(
    model: AnyToAny,
    conversations: Sequence[list[Message]],
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 16,
) -> list[Message]:
    """The replies to many conversations, text and media each in batches; media that cannot be made are missing.

    A row's seeds are its own, `seed` and its number. What else is in its batch changes how sums are rounded, and nothing more.
    """
    drafts = draw_all(model, conversations, seed, sampling, batch_size)
    render_all(model, drafts, seed, sampling, batch_size)
    return [finished(draft.parts) for draft in drafts]
