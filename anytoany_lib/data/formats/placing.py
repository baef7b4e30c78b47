"""Puts the media that a record names where its turns mark them: every one of them, or the record is unusable.

A mark stands for a medium only if the record names one of that kind, or one medium of another kind that nothing else marks;
otherwise it is text. Media that no turn marks come first in the first question. More of the one than of the other is a reason
to drop the record, as is anything named that cannot be shown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from anytoany_lib.data.formats.marks import Mark, items_of
from anytoany_lib.data.formats.named_media import (
    Named,
    Naming,
    Unusable,
    agreed,
    base_of,
    is_text,
    named_in,
    words_of,
)
from anytoany_lib.data.formats.turns import Record, Turn, beside
from anytoany_lib.modalities import MEDIA_KINDS

Message = dict[str, Any]
MAX_CAPTION = 4000  # characters: more is a page that was taken for a caption
_NOTHING = Naming()
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass
class _Place:
    """A mark in a turn's items."""

    items: list[str | Mark]
    at: int

    @property
    def mark(self) -> Mark:
        mark = self.items[self.at]
        assert isinstance(mark, Mark)
        return mark

    def show(self, one: Named, caption: Any = None) -> None:
        """The medium stands here."""
        self.items[self.at] = replace(
            self.mark, kind=one.kind, name=one.name, label=False, caption=caption
        )


class Talk:
    """A record's turns as `items` with their media in place; `parts` are those of a message."""

    def __init__(self, record: Record, turns: list[Turn], keys: set[str]):
        self.turns = turns
        self.told = {kind: places(record.get(f"{kind}_captions")) for kind in MEDIA_KINDS}
        self.listed = _listed(record)
        lists = {f"{kind}_list" for kind in MEDIA_KINDS if records(record.get(f"{kind}_list"))}
        self.naming = named_in(record, keys | lists)
        own = [named_in(more) if (more := beside(turn.record)) else _NOTHING for turn in turns]
        known = {name: kind for name, (kind, _) in self.listed.items()} | self.naming.kinds()
        self.claims = list(self.naming.claims)
        for one in own:
            if one is not _NOTHING:
                known |= one.kinds()
                self.claims += one.claims
        self.items = [self._items(turn, known) for turn in turns]
        self.shown: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.outs: list[Named] = []
        named = self.naming.media or any(one.media for one in own)
        if named or any(isinstance(item, Mark) for items in self.items for item in items):
            self._place(own)

    def _items(self, turn: Turn, known: dict[str, str]) -> list[str | Mark]:
        if isinstance(turn.said, str):
            return items_of(turn.said, known)
        items: list[str | Mark] = []
        for part in turn.said:
            if is_text(part):
                items += items_of(part, known)
            elif not isinstance(part, dict):
                raise Unusable("a part of a message is neither text nor a record")
            elif part.get("type") in (*_TEXT_PARTS, None) and is_text(part.get("text")):
                items += items_of(part["text"], known)
                _no_more(named_in({k: v for k, v in part.items() if k not in ("text", "type")}))
            else:
                items += self._part(part)
        return items

    def _part(self, part: Record) -> list[str | Mark]:
        """The medium that a part of a message is: by name, or a mark for one that the record names."""
        said = str(part.get("type"))[:40]
        naming = named_in({key: one for key, one in part.items() if key != "type"})
        self.claims += [claim for claim in naming.claims if not naming.media]
        if naming.media:
            return [Mark(m.kind, said, m.name, caption=part.get("caption")) for m in naming.media]
        named = (one for word in words_of(said) for one in items_of(f"<{word}>", {}))
        mark = next((one for one in named if isinstance(one, Mark)), None)
        if mark is None or naming.claims:
            raise Unusable(f"a part of type {said!r} names no file")
        return [replace(mark, said=f"a part of type {said}", part=True)]

    def _place(self, own: list[Naming]) -> None:
        for turn, items, naming in zip(self.turns, self.items, own, strict=True):
            if naming.media:
                self._place_own(turn, items, naming)
        self.unnamed = [
            _Place(items, at)
            for turn, items in zip(self.turns, self.items, strict=True)
            if turn.role != "assistant"
            for at, item in enumerate(items)
            if isinstance(item, Mark) and item.name is None
        ]
        marked = {
            name
            for items in self.items
            for item in items
            if isinstance(item, Mark) and item.name
            for name in (item.name, base_of(item.name))
        }
        rest = [
            one
            for one in self.naming.media
            if one.name not in marked and base_of(one.name) not in marked
        ]
        self.outs = [one for one in rest if one.made or self._only_made(one)]
        waiting = {
            kind: [one for one in rest if one.kind == kind and one not in self.outs]
            for kind in MEDIA_KINDS
        }
        self._match(waiting)
        self._begin_with(waiting)

    def _only_made(self, one: Named) -> bool:
        """Whether what a key names that does not say so can only be what a reply makes: nobody shows it."""
        told = any(map(is_text, self.told[one.kind])) or any(
            turn.record.get("output_modality") == one.kind for turn in self.turns
        )
        shows = any(turn.record.get("input_modality") == one.kind for turn in self.turns)
        return not one.sure and told and not shows and not self._places(one.kind)

    def _place_own(self, turn: Turn, items: list[str | Mark], naming: Naming) -> None:
        """Media named beside a turn, in that turn."""
        there = {item.name for item in items if isinstance(item, Mark)}
        for kind in MEDIA_KINDS:
            media = [one for one in naming.media if one.kind == kind and one.name not in there]
            if not media:
                continue
            at = [n for n, i in enumerate(items) if _is_place(i, kind)]
            told = turn.record.get("caption") if turn.role == "assistant" else None
            if not at:
                marks: list[str | Mark] = [Mark(kind, "", one.name, caption=told) for one in media]
                items[:] = items + marks if turn.role == "assistant" else [*marks, *items]
            elif len(at) == len(media):
                for n, one in zip(at, media, strict=True):
                    _Place(items, n).show(one, told)
            else:
                raise _unequal(media, [_Place(items, n) for n in at])

    def _places(self, kind: str | None, label: bool = False) -> list[_Place]:
        """Where users mark a medium of a kind that is not told by name."""
        return [place for place in self.unnamed if _is_place(place.mark, kind, label)]

    def _match(self, waiting: dict[str, list[Named]]) -> None:
        """Gives marks to the media that wait for one; those that get one wait no longer."""
        orphans = {}
        for kind, media in waiting.items():
            marks = self._places(kind)
            if media and (marks or len(self._places(kind, label=True)) == len(media)):
                _give(media, marks or self._places(kind, label=True))
                media.clear()
            elif marks:
                orphans[kind] = marks
        unmarked = [one for one in self.naming.media if one in waiting[one.kind]]
        anything = self._places(None)
        if anything and unmarked:
            _give(unmarked, anything)
        elif unmarked and len(orphans) == 1 and len({one.kind for one in unmarked}) == 1:
            # <image> for a film, as LLaVA-Video has it.
            _give(unmarked, orphans.popitem()[1])
        else:
            self._check_orphans(orphans)
            return
        for media in waiting.values():
            media.clear()
        self._check_orphans(orphans)

    def _check_orphans(self, orphans: dict[str, list[_Place]]) -> None:
        """Marks without a medium are text, unless there is one of their kind elsewhere, or the turn is nothing else."""
        for kind, marks in orphans.items():
            self._check_claims([kind])
            named = self._has(kind)
            for place in marks:
                alone = not any(isinstance(i, str) and i.strip() for i in place.items)
                if named or alone or place.mark.part:
                    raise Unusable(f"no {kind} for the mark {place.mark.said.strip()[:60]}")

    def _check_claims(self, kinds: list[str]) -> None:
        """Unusable if the record claims to have a medium of one of the kinds, of which there is none."""
        for kind, key in self.claims:
            if kind in kinds:
                raise Unusable(f"{key} names {kind}, but no file of this dataset")

    def _has(self, kind: str) -> bool:
        """Whether the record names a medium of the kind in a turn, or by a key."""
        items = [item for items in self.items for item in items if isinstance(item, Mark)]
        return any(item.name and item.kind == kind for item in items) or any(
            turn.record.get("input_modality") == kind for turn in self.turns
        )

    def _begin_with(self, waiting: dict[str, list[Named]]) -> None:
        """What no turn marks, at the beginning of the first question."""
        media = [one for one in self.naming.media if one in waiting[one.kind]]
        if not media:
            return
        for one in media:
            replies = [
                i for t, i in zip(self.turns, self.items, strict=True) if t.role == "assistant"
            ]
            if not self.told[one.kind] and any(_is_place(i, one.kind) for r in replies for i in r):
                raise Unusable(f"no caption for a generated {one.kind} ({one.key})")
        first = next((n for n, turn in enumerate(self.turns) if turn.role == "user"), None)
        if first is None:
            raise Unusable("no conversation")
        self.items[first][:0] = [Mark(one.kind, "", one.name) for one in media]

    def parts(self, number: int) -> list[Message]:
        """The parts of one turn."""
        turn, items = self.turns[number], self.items[number]
        parts: list[Message] = []
        text = ""
        for at, item in enumerate(items):
            if isinstance(item, str):
                text += item
                continue
            if item.label and self._needless(items, at):
                continue
            medium = self._medium(turn, item, items)
            if medium is None:
                text += item.said
                continue
            _add_text(parts, text)
            parts.append(medium)
            text = ""
        _add_text(parts, text)
        wanted = turn.record.get("output_modality")
        if (
            turn.role == "assistant"
            and wanted in MEDIA_KINDS
            and not any(part["type"] == wanted for part in parts)
        ):
            parts.append(self._made(turn, Mark(wanted, "")))
        return parts

    def _needless(self, items: list[str | Mark], at: int) -> bool:
        """Whether a label (`Picture 1:`) tells the only medium of the record apart from none."""
        following = items[at + 1] if at + 1 < len(items) else None
        named = [i for items in self.items for i in items if isinstance(i, Mark) and i.name]
        return isinstance(following, Mark) and bool(following.name) and len(named) == 1

    def _medium(self, turn: Turn, mark: Mark, items: list[str | Mark]) -> Message | None:
        """The part that a mark stands for; None if it is text."""
        if turn.role != "assistant":
            if mark.name is None or mark.kind is None:
                return None
            kind = agreed(mark.kind, mark.name.split("#t=")[0])
            self.shown[kind] += 1
            return {"type": kind, kind: mark.name}
        alone = not any(isinstance(item, str) and item.strip() for item in items)
        if mark.label or mark.kind is None:
            return None
        return self._made(turn, mark) if alone or mark.name or self._makes(turn, mark) else None

    def _makes(self, turn: Turn, mark: Mark) -> bool:
        """Whether the record says of a medium of this kind that a reply makes it."""
        kind = mark.kind
        return bool(
            (kind and self.told[kind])
            or turn.record.get("output_modality") == kind
            or any(one.kind == kind for one in self.outs)
        )

    def _made(self, turn: Turn, mark: Mark) -> Message:
        """What the assistant makes, by its caption."""
        kind = mark.kind or ""
        own = turn.record.get("caption") if turn.record.get("output_modality") == kind else None
        queued = self.told[kind].pop(0) if self.told[kind] else None
        caption: Any = mark.caption or own or queued
        if mark.name in self.listed:
            caption = self.listed[mark.name or ""][1]
        if not is_text(caption) or not caption.strip():
            raise Unusable(f"no caption for a generated {kind}")
        if len(caption) > MAX_CAPTION:
            raise Unusable("caption too long")
        self.made[kind] += 1
        return {"type": kind, "caption": " ".join(caption.split())}

    def check_all_there(self) -> None:
        """Unusable if the record names or claims anything that no message shows or makes."""
        present = self.shown + self.made
        self._check_claims([kind for kind in MEDIA_KINDS if not present[kind]])
        for kind in MEDIA_KINDS:
            left = [caption for caption in self.told[kind] if is_text(caption) and caption.strip()]
            if left and (self.made[kind] or not self.shown[kind]):
                raise Unusable(f"{kind}_captions tells of more than the replies mark")
        for turn in self.turns:
            wanted = turn.record.get("input_modality")
            if turn.role == "user" and wanted in MEDIA_KINDS and not self.shown[wanted]:
                raise Unusable(f"input_modality names {wanted}, but there is none")
        if lost := [one for one in self.outs if not self.made[one.kind]]:
            raise Unusable(f"{lost[0].key} names {lost[0].kind} that no reply makes")
        named = {i.name for items in self.items for i in items if isinstance(i, Mark)}
        if lost_names := [name for name in self.listed if name not in named]:
            raise Unusable(f"{self.listed[lost_names[0]][0]}_list names what no turn marks")


def _is_place(item: str | Mark, kind: str | None, label: bool = False) -> bool:
    return (
        isinstance(item, Mark) and item.kind == kind and item.name is None and item.label == label
    )


def _give(media: list[Named], marks: list[_Place]) -> None:
    """One medium for each mark: in order, or by the marks' numbers. Unusable if they do not come out even."""
    numbers = [place.mark.number for place in marks]
    if len(marks) > 1 or len(media) > 1:
        told = [number for number in numbers if number is not None]
        first = min(told, default=0)
        if len(told) == len(marks) and {n - first for n in told} == set(range(len(media))):
            for place, number in zip(marks, told, strict=True):
                place.show(media[number - first])
            return
    if len(media) != len(marks):
        raise _unequal(media, marks)
    for place, one in zip(marks, media, strict=True):
        place.show(one)


def _unequal(media: list[Named], marks: list[_Place]) -> Unusable:
    said = marks[0].mark.said.strip()[:60]
    return Unusable(f"{len(media)} media under {media[0].key}, {len(marks)} marks {said}")


def _no_more(naming: Naming) -> None:
    """Unusable if a part that is text names a medium too."""
    if naming.media or naming.claims:
        key = naming.media[0].key if naming.media else naming.claims[0][1]
        raise Unusable(f"{key} in a part of text")


def _listed(record: Record) -> dict[str, tuple[str, Any]]:
    """{name: (kind, caption)} of the media that a record lists with their captions."""
    found = {}
    for kind in MEDIA_KINDS:
        for medium in records(record.get(f"{kind}_list")):
            for name in places(medium.get(f"{kind}_name")):
                if is_text(name) and name:
                    found[name] = (kind, medium.get("caption"))
    return found


def places(value: Any) -> list[Any]:
    """The items of a field that holds one text, a list or nothing, as they stand: a bad one keeps its place."""
    if isinstance(value, list):
        return list(value)
    return [value] if is_text(value) and value else []


def records(value: Any) -> list[Record]:
    """The records of a list; none of anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _add_text(parts: list[Message], text: str) -> None:
    if text := text.strip():
        parts.append({"type": "text", "text": text})
