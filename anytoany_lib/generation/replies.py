"""Replies: the text that `decoding` draws, and the media that are made from its conditions.

`stream` gives one reply event by event, `reply_all` many at once, in batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from anytoany_lib.decoders.pipelines import BrokenMedia
from anytoany_lib.generation.decoding import Draft, decode, never, read_prompts
from anytoany_lib.generation.edits import picture_to_edit
from anytoany_lib.generation.events import (
    AloudStarted,
    Done,
    Event,
    Events,
    Loading,
    MediaFailed,
    MediaProgress,
    MediaReady,
    MediaStarted,
    TextDelta,
    TurnsDropped,
    without_condition,
)
from anytoany_lib.generation.foreign_messages import as_messages
from anytoany_lib.generation.kv_cache import PrefixCache
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.messages import Encoded, Message, Part
from anytoany_lib.modalities import ALOUD
from anytoany_lib.system.background import Stopped, drawn_in_background, run_in_background
from anytoany_lib.system.out_of_memory import is_out_of_memory

if TYPE_CHECKING:  # the model builds on this module
    from anytoany_lib.model import AnyToAny

# Of the room for a history that has outgrown it: what is kept, so that the next turns find the same beginning.
_KEPT = 0.75
# Between the seeds of a reply's media: more than an evaluation has rows, whose seeds follow one another.
_PART_STRIDE = 1_000_003


def _room(model: AnyToAny, sampling: Sampling | None) -> int:
    """How many tokens of a history leave room for the reply."""
    reply = (sampling or Sampling()).max_new_tokens or model.profile.llm.max_new_tokens
    return model.profile.llm.context - reply


def prepare(
    model: AnyToAny, messages: list[Message], sampling: Sampling | None = None
) -> tuple[Encoded, int]:
    """A conversation as a prompt that leaves room for the reply, and how many of its oldest messages that cost.

    Raises ValueError if the last turn alone leaves none.
    """
    room = _room(model, sampling)
    return model.messages.encode_within(messages, room, prompt=True, keep=_KEPT)


def read_on(
    model: AnyToAny, messages: list[Message], sampling: Sampling | None, cache: PrefixCache
) -> None:
    """Reads the end of a conversation's last reply, which was not needed to draw it, for the next turn, unless that drops turns."""
    encoded = model.messages.encode(messages)
    if len(encoded.ids) <= _room(model, sampling):
        model.media_models.worker.submit(_read_on, model, encoded, cache).result()


@torch.inference_mode()
def _read_on(model: AnyToAny, encoded: Encoded, cache: PrefixCache) -> None:
    try:
        read_prompts(model, [encoded], cache)
    except BaseException as error:
        cache.forget()
        if not is_out_of_memory(error):
            raise
        # The next turn reads all of it, and says what can be done if it cannot.


def media_seed(seed: int, index: int) -> int:
    """The seed of the medium that is part `index` of a reply with this seed."""
    return seed + _PART_STRIDE * index


def _encode_media(
    model: AnyToAny, prompt: Encoded, cache: PrefixCache, stopping: Callable[[], bool]
) -> Iterator[Event]:
    """Encodes the media of a prompt that are new, on the worker, so that `decode` finds all embeddings at hand."""
    media = [(kind, medium) for kind, medium, _ in prompt.media]
    keys = cache.media_keys(media)
    if all(model.knows(key) for key in keys):
        return
    if not model.loaded("encoder"):
        yield Loading("encoder")
    yield from run_in_background(
        model.media_models.worker, lambda report: model.embed_media(media, keys), stopping
    )


def _render(
    model: AnyToAny,
    draft: Draft,
    index: int,
    seed: int,
    settings: dict[str, Any],
    stopping: Callable[[], bool],
) -> Iterator[Event]:
    """Makes a medium from its condition, by these settings of `Decoder.generate`, and puts it into its part; one that cannot
    be made ends nothing else.
    """
    part = draft.parts[index]
    if not model.loaded(part["type"]):
        yield Loading(part["type"])

    def work(report: Callable[[Event], None]) -> Part:
        """The medium, on the model's worker; its steps are reported."""

        def on_step(*step: Any) -> None:
            report(MediaProgress(index, *step))

        condition = part["condition"][None]
        return model.render(part["type"], condition, [seed], on_step=on_step, **settings)[0]

    try:
        part.update((yield from run_in_background(model.media_models.worker, work, stopping)))
    except Stopped:
        raise
    except Exception as error:
        yield MediaFailed(index, error)
    else:
        yield MediaReady(index, without_condition(part))


def stream(
    model: AnyToAny,
    messages: list[Message],
    seed: int = 0,
    sampling: Sampling | None = None,
    cache: PrefixCache | None = None,
    stopping: Callable[[], bool] = never,
) -> Events:
    """The reply to a conversation, event by event: its text first, then the media in order.

    The same seed gives the same reply. What a `cache` holds of the conversation is not read again. Once `stopping()`,
    which is asked between tokens and while encoder and decoders work, the reply is Done with what is finished of it.
    Closing the iterator ends it as well.
    """
    sampling, cache = sampling or Sampling(), cache or PrefixCache()
    messages = as_messages(messages)
    prompt, dropped = prepare(model, messages, sampling)
    if dropped:
        yield TurnsDropped(dropped)
    draft = Draft()
    try:
        yield from _encode_media(model, prompt, cache, stopping)
        drawn = decode(model, [prompt], sampling, [seed], cache, stopping)
        begun = -1
        for _, draft, delta in drawn_in_background(model.media_models.worker, drawn):
            before, begun = begun, len(draft.parts) - 1
            if delta:
                yield TextDelta(delta)
            elif draft.parts[-1]["type"] != "text":
                yield MediaStarted(begun, draft.parts[-1]["type"])
            elif begun > before and draft.parts[-1].get(ALOUD):
                yield AloudStarted(begun)
        if draft.finish_reason is None:
            raise Stopped
        beginning = picture_to_edit(messages, model.profile, sampling)
        for index, part in enumerate(draft.parts):
            if part["type"] != "text":
                settings = sampling.diffusion()
                settings |= beginning if part["type"] == "image" else {}
                yield from _render(model, draft, index, media_seed(seed, index), settings, stopping)
    except Stopped:
        draft.finish_reason = "stopped"
    yield Done(draft.message(), draft.finish_reason)


def last_message(events: Events) -> Message:
    """The message of a reply whose events are read to their end. Raises the error of a medium that could not be made."""
    message: Message = {}
    for event in events:
        if isinstance(event, MediaFailed):
            raise event.error
        if isinstance(event, Done):
            message = event.message
    return message


def draw_all(
    model: AnyToAny,
    conversations: Sequence[list[Message]],
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 16,
) -> list[Draft]:
    """The replies to many conversations as drafts, in batches of like length: a medium's part has its condition only."""
    sampling = sampling or Sampling()
    conversations = list(map(as_messages, conversations))
    prompts = [prepare(model, messages, sampling)[0] for messages in conversations]
    drafts: dict[int, Draft] = {}
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids))
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        for at, draft, _ in decode(
            model, [prompts[r] for r in rows], sampling, [seed + r for r in rows]
        ):
            draft.beginning = picture_to_edit(conversations[rows[at]], model.profile, sampling)
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
    pending: dict[str, list[tuple[int, Part]]] = defaultdict(list)
    edited: list[tuple[int, Part, dict[str, Any]]] = []
    for row, draft in enumerate(drafts):
        for index, part in enumerate(draft.parts):
            item = (media_seed(seed + row, index), part)
            if part["type"] == "image" and draft.beginning:
                edited.append((*item, draft.beginning))
            elif part["type"] != "text":
                pending[part["type"]].append(item)
    for of_kind in pending.values():
        for start in range(0, len(of_kind), batch_size):
            _render_batch(model, of_kind[start : start + batch_size], sampling.diffusion())
    for number, part, beginning in edited:  # each begins with a picture of its own
        _render_batch(model, [(number, part)], sampling.diffusion() | beginning)


def _render_batch(
    model: AnyToAny, batch: Sequence[tuple[int, Part]], settings: dict[str, Any]
) -> None:
    """Makes the media of parts of one kind, each with its seed, and puts them into the parts."""
    seeds, parts = zip(*batch, strict=True)
    conditions = torch.stack([part["condition"] for part in parts])
    media: Sequence[dict[str, Any] | None]
    try:
        media = model.render(parts[0]["type"], conditions, seeds, **settings)
        reasons = [""] * len(parts)
    except BrokenMedia as error:
        media, reasons = error.media, error.reasons
    for part, payload, reason in zip(parts, media, reasons, strict=True):
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
    return [draft.message() for draft in drafts]
