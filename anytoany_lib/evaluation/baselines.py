"""What to hold a cell's rates against: guessing, a decoder that is told the true caption, and words in place of media.

The last two cost as much a row as the cell itself, so they are given some of its rows (`evenly`).
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np

from anytoany_lib.data.rows import DESCRIBE, Row, media_in, text_part
from anytoany_lib.decoders.adapters import CaptionEncoder
from anytoany_lib.evaluation.judging import (
    chance_by_part,
    given,
    means,
    rates,
    request_of,
    text_of,
    verdicts,
)
from anytoany_lib.evaluation.stored_replies import Drawing
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.messages import Message, Part, parts_of
from anytoany_lib.modalities import MEDIA_KINDS

# How a caption says what it stands for.
_SHOWN = {
    "image": "The picture shows {}.",
    "audio": "The sound is {}.",
    "video": "The film shows {}.",
}

Item = TypeVar("Item")
Cells = Mapping[str, Sequence[Row]]
Rates = dict[str, dict[str, Any]]


def evenly(rows: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` rows, evenly spread, so that held-out pairs keep their share; None takes all."""
    count = len(rows) if limit is None else min(limit, len(rows))
    return [rows[n] for n in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def chance_by_attribute(
    judges: Any, rows: Sequence[Row], replies: Sequence[Message]
) -> dict[str, float]:
    """How often a cell's replies are judged right about the scenes of its other rows."""
    return {
        a: v for found in chance_by_part(judges, rows, replies).values() for a, v in found.items()
    }


def upper_bounds(drawing: Drawing, judges: Any, cells: Cells) -> tuple[Rates, Rates]:
    """What decoders reach with the true captions, each rendered once: rates by kind of medium, and by cell that gives media."""
    # Where the reply is media alone, captions say all that is to be right about it.
    cells = {
        name: rows
        for name, rows in cells.items()
        if all(part["kind"] != "text" for part in rows[0].meta["expect"])
    }
    expected = [part for rows in cells.values() for row in rows for part in row.meta["expect"]]
    made: dict[tuple[str, str], Message] = {}
    by_kind = {}
    for kind in MEDIA_KINDS:
        scenes = {part["caption"]: part["scene"] for part in expected if part["kind"] == kind}
        if not scenes:
            continue
        model = drawing.model
        conditions = CaptionEncoder(model.profile.decoders[kind], model.device)(list(scenes))
        replies = drawing.media(kind, conditions.cpu(), f"{kind}s from true captions")
        made |= {(kind, caption): r for caption, r in zip(scenes, replies, strict=True)}
        media = [given(reply, kind) for reply in replies]
        by_kind[kind] = {"n": len(scenes)} | means(judges.judge(kind, media, list(scenes.values())))
    by_cell = {
        name: rates(verdicts(judges, rows, [_from_captions(row, made) for row in rows]))
        for name, rows in cells.items()
    }
    return by_kind, by_cell


def _from_captions(row: Row, made: Mapping[tuple[str, str], Message]) -> Message:
    """The reply that consists of the media which a row's true captions gave."""
    of_parts = [made[part["kind"], part["caption"]]["content"] for part in row.meta["expect"]]
    return {"role": "assistant", "content": [part for content in of_parts for part in content]}


def untouched(drawing: Drawing, judges: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """The rates of plain rows when they are answered by the language model as it was before any training."""
    requests, adapter = [request_of(row) for row in rows], drawing.model.adapter
    with adapter.disable_adapter() if adapter is not None else nullcontext():
        replies = drawing.replies(requests, "untouched", Sampling(kinds=()))
    return rates(verdicts(judges, rows, replies))


def in_words(messages: Sequence[Message], captions: Iterable[str]) -> list[Message]:
    """Messages with a sentence in place of each medium, of its caption; the captions are in the media's order."""
    remaining = iter(captions)

    def worded(part: Part) -> Part:
        if part["type"] == "text":
            return part
        return text_part(_SHOWN[part["type"]].format(next(remaining).strip().rstrip(".")) + " ")

    return [{**m, "content": [worded(part) for part in parts_of(m)]} for m in messages]


def text_only(drawing: Drawing, judges: Any, cells: Cells) -> Rates:
    """Rates of cells that are shown media when the model reads its own captions instead; what they lose is what no words carry."""
    cells = {name: rows for name, rows in cells.items() if media_in(request_of(rows[0]))}
    requests = [request_of(row) for rows in cells.values() for row in rows]
    asked = [
        [{"role": "user", "content": [{"type": kind, kind: medium}, text_part(DESCRIBE[kind][0])]}]
        for request in requests
        for kind, medium in media_in(request)
    ]
    captions = map(text_of, drawing.replies(asked, "captions", Sampling(kinds=())))
    requests = [
        in_words(request, [next(captions) for _ in media_in(request)]) for request in requests
    ]
    replies = iter(drawing.replies(requests, "text only"))
    return {
        name: rates(verdicts(judges, rows, [next(replies) for _ in rows]))
        for name, rows in cells.items()
    }
