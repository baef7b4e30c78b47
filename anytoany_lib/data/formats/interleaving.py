"""Puts the media that a record names in the place of its turns' placeholders: every one of them, or the record is unusable.

A placeholder stands for a medium only if the record names one of that kind, or one medium of another kind that no other
placeholder is for; otherwise it is text. Media without a placeholder come first in the first question. More of the one than
of the other is a reason to drop the record, as is anything named that cannot be shown. Reasons call a placeholder a mark.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from anytoany_lib.data.formats.media_references import (
    MediaReference,
    MediaReferences,
    Unusable,
    agreed_kind,
    file_name_of,
    is_text,
    references_in,
    words_of,
)
from anytoany_lib.data.formats.placeholders import Placeholder, split_at_placeholders
from anytoany_lib.data.formats.turns import Record, Turn, beside
from anytoany_lib.modalities import MEDIA_KINDS

Message = dict[str, Any]
Item = str | Placeholder
MAX_CAPTION = 4000  # characters: more is a page that was taken for a caption
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass
class _Slot:
    """Where a placeholder stands: in the `items` of a turn, `at` an index."""

    items: list[Item]
    at: int

    @property
    def placeholder(self) -> Placeholder:
        placeholder = self.items[self.at]
        assert isinstance(placeholder, Placeholder)
        return placeholder

    def show(self, one: MediaReference, caption: Any = None) -> None:
        """The medium stands here."""
        self.items[self.at] = replace(
            self.placeholder, kind=one.kind, name=one.name, label=False, caption=caption
        )


class InterleavedTurns:
    """A record's turns, each as `items` of text and placeholders, with their media in place; `parts` gives them as a message."""

    def __init__(self, record: Record, turns: list[Turn], keys: set[str]):
        self.turns = turns
        self.captions = {kind: as_list(record.get(f"{kind}_captions")) for kind in MEDIA_KINDS}
        self.media_lists = _media_lists(record)
        lists = {f"{kind}_list" for kind in MEDIA_KINDS if dicts_in(record.get(f"{kind}_list"))}
        self.references = references_in(record, keys | lists)
        own = [references_in(beside(turn.record)) for turn in turns]
        known = {name: kind for name, (kind, _) in self.media_lists.items()}
        self.claims: list[tuple[str, str]] = []
        for one in (self.references, *own):
            known |= one.kinds()
            self.claims += one.claims
        self.items = [self._items(turn, known) for turn in turns]
        self.shown: Counter[str] = Counter()
        self.generated: Counter[str] = Counter()
        self.outputs: list[MediaReference] = []
        named = self.references.media or any(one.media for one in own)
        if named or self._placeholders():
            self._place(own)

    def _placeholders(self) -> list[Placeholder]:
        """Those of all turns, in order."""
        return [item for items in self.items for item in items if isinstance(item, Placeholder)]

    def _items(self, turn: Turn, known: dict[str, str]) -> list[Item]:
        if isinstance(turn.content, str):
            return split_at_placeholders(turn.content, known)
        items: list[Item] = []
        for part in turn.content:
            if is_text(part):
                items += split_at_placeholders(part, known)
            elif not isinstance(part, dict):
                raise Unusable("a part of a message is neither text nor a record")
            elif part.get("type") in (*_TEXT_PARTS, None) and is_text(part.get("text")):
                items += split_at_placeholders(part["text"], known)
                more = references_in(part, ("text", "type"))
                if named := [one.key for one in more.media] + [key for _, key in more.claims]:
                    raise Unusable(f"{named[0]} in a part of text")
            else:
                items += self._part(part)
        return items

    def _part(self, part: Record) -> list[Item]:
        """The medium that a part of a message is: by name, or a placeholder for one that the record names."""
        type_ = str(part.get("type"))[:40]
        references = references_in(part, ("type",))
        self.claims += [claim for claim in references.claims if not references.media]
        if references.media:
            caption = part.get("caption")
            return [Placeholder(m.kind, type_, m.name, caption=caption) for m in references.media]
        named = (one for word in words_of(type_) for one in split_at_placeholders(f"<{word}>", {}))
        placeholder = next((one for one in named if isinstance(one, Placeholder)), None)
        if placeholder is None or references.claims:
            raise Unusable(f"a part of type {type_!r} names no file")
        return [replace(placeholder, text=f"a part of type {type_}", part=True)]

    def _place(self, own: list[MediaReferences]) -> None:
        for turn, items, references in zip(self.turns, self.items, own, strict=True):
            if references.media:
                self._place_own(turn, items, references)
        self.open_slots = [
            _Slot(items, at)
            for turn, items in zip(self.turns, self.items, strict=True)
            if turn.role != "assistant"
            for at, item in enumerate(items)
            if isinstance(item, Placeholder) and item.name is None
        ]
        named = {item.name for item in self._placeholders() if item.name}
        placed = named | set(map(file_name_of, named))
        rest = [m for m in self.references.media if not {m.name, file_name_of(m.name)} & placed]
        self.outputs = [one for one in rest if one.made or self._only_generated(one)]
        waiting = {
            kind: [one for one in rest if one.kind == kind and one not in self.outputs]
            for kind in MEDIA_KINDS
        }
        self._match(waiting)
        self._begin_with(waiting)

    def _only_generated(self, one: MediaReference) -> bool:
        """Whether what a key names that does not say so can only be what a reply makes: nobody shows it."""
        captioned = any(map(is_text, self.captions[one.kind])) or any(
            turn.record.get("output_modality") == one.kind for turn in self.turns
        )
        shows = any(turn.record.get("input_modality") == one.kind for turn in self.turns)
        return not one.sure and captioned and not shows and not self._slots(one.kind)

    def _place_own(self, turn: Turn, items: list[Item], references: MediaReferences) -> None:
        """Media named beside a turn, in that turn."""
        there = {item.name for item in items if isinstance(item, Placeholder)}
        for kind in MEDIA_KINDS:
            media = [one for one in references.media if one.kind == kind and one.name not in there]
            if not media:
                continue
            slots = [_Slot(items, at) for at, item in enumerate(items) if _is_slot(item, kind)]
            caption = turn.record.get("caption") if turn.role == "assistant" else None
            if not slots:
                placed = [Placeholder(kind, "", one.name, caption=caption) for one in media]
                items[:] = [*items, *placed] if turn.role == "assistant" else [*placed, *items]
            elif len(slots) == len(media):
                for slot, one in zip(slots, media, strict=True):
                    slot.show(one, caption)
            else:
                raise _unequal(media, slots)

    def _slots(self, kind: str | None, label: bool = False) -> list[_Slot]:
        """Placeholders without a name, of a kind, in what users say."""
        return [slot for slot in self.open_slots if _is_slot(slot.placeholder, kind, label)]

    def _match(self, waiting: dict[str, list[MediaReference]]) -> None:
        """Gives placeholders to the media that wait for one; those that get one wait no longer."""
        orphans = {}
        for kind, media in waiting.items():
            slots = self._slots(kind)
            if media and (slots or len(self._slots(kind, label=True)) == len(media)):
                _give(media, slots or self._slots(kind, label=True))
                media.clear()
            elif slots:
                orphans[kind] = slots
        unplaced = [one for one in self.references.media if one in waiting[one.kind]]
        anything = self._slots(None)
        if anything and unplaced:
            _give(unplaced, anything)
        elif unplaced and len(orphans) == 1 and len({one.kind for one in unplaced}) == 1:
            # <image> for a film, as LLaVA-Video has it.
            _give(unplaced, orphans.popitem()[1])
        else:
            self._check_orphans(orphans)
            return
        for media in waiting.values():
            media.clear()
        self._check_orphans(orphans)

    def _check_orphans(self, orphans: dict[str, list[_Slot]]) -> None:
        """Placeholders without a medium are text, unless there is one of their kind elsewhere, or the turn is nothing else."""
        for kind, slots in orphans.items():
            self._check_claims([kind])
            named = self._has(kind)
            for slot in slots:
                alone = not any(isinstance(i, str) and i.strip() for i in slot.items)
                if named or alone or slot.placeholder.part:
                    raise Unusable(f"no {kind} for the mark {slot.placeholder.text.strip()[:60]}")

    def _check_claims(self, kinds: list[str]) -> None:
        """Unusable if the record claims to have a medium of one of the kinds, of which there is none."""
        for kind, key in self.claims:
            if kind in kinds:
                raise Unusable(f"{key} names {kind}, but no file of this dataset")

    def _has(self, kind: str) -> bool:
        """Whether the record names a medium of the kind in a turn, or by a key."""
        return any(item.name and item.kind == kind for item in self._placeholders()) or any(
            turn.record.get("input_modality") == kind for turn in self.turns
        )

    def _begin_with(self, waiting: dict[str, list[MediaReference]]) -> None:
        """Media without a placeholder, at the beginning of the first question."""
        media = [one for one in self.references.media if one in waiting[one.kind]]
        if not media:
            return
        in_replies = [
            item
            for turn, items in zip(self.turns, self.items, strict=True)
            if turn.role == "assistant"
            for item in items
        ]
        for one in media:
            if not self.captions[one.kind] and any(_is_slot(i, one.kind) for i in in_replies):
                raise Unusable(f"no caption for a generated {one.kind} ({one.key})")
        first = next((n for n, turn in enumerate(self.turns) if turn.role == "user"), None)
        if first is None:
            raise Unusable("no conversation")
        self.items[first][:0] = [Placeholder(one.kind, "", one.name) for one in media]

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
                text += item.text
                continue
            _add_text(parts, text)
            parts.append(medium)
            text = ""
        _add_text(parts, text)
        wanted = turn.record.get("output_modality") if turn.role == "assistant" else None
        if wanted in MEDIA_KINDS and not any(part["type"] == wanted for part in parts):
            parts.append(self._generated(turn, Placeholder(wanted, "")))
        return parts

    def _needless(self, items: list[Item], at: int) -> bool:
        """Whether a label (`Picture 1:`) tells the only medium of the record apart from none."""
        following = items[at + 1] if at + 1 < len(items) else None
        named = [item for item in self._placeholders() if item.name]
        return isinstance(following, Placeholder) and bool(following.name) and len(named) == 1

    def _medium(self, turn: Turn, placeholder: Placeholder, items: list[Item]) -> Message | None:
        """The part that a placeholder stands for; None if it is text."""
        if turn.role != "assistant":
            if placeholder.name is None or placeholder.kind is None:
                return None
            kind = agreed_kind(placeholder.kind, placeholder.name.split("#t=")[0])
            self.shown[kind] += 1
            return {"type": kind, kind: placeholder.name}
        alone = not any(isinstance(item, str) and item.strip() for item in items)
        if placeholder.label or placeholder.kind is None:
            return None
        if alone or placeholder.name or self._generates(turn, placeholder):
            return self._generated(turn, placeholder)
        return None

    def _generates(self, turn: Turn, placeholder: Placeholder) -> bool:
        """Whether the record says of a medium of this kind that a reply makes it."""
        kind = placeholder.kind
        return bool(
            (kind and self.captions[kind])
            or turn.record.get("output_modality") == kind
            or any(one.kind == kind for one in self.outputs)
        )

    def _generated(self, turn: Turn, placeholder: Placeholder) -> Message:
        """What the assistant makes, by its caption."""
        kind = placeholder.kind or ""
        own = turn.record.get("caption") if turn.record.get("output_modality") == kind else None
        queued = self.captions[kind].pop(0) if self.captions[kind] else None
        caption: Any = placeholder.caption or own or queued
        if placeholder.name in self.media_lists:
            caption = self.media_lists[placeholder.name or ""][1]
        if not is_text(caption) or not caption.strip():
            raise Unusable(f"no caption for a generated {kind}")
        if len(caption) > MAX_CAPTION:
            raise Unusable("caption too long")
        self.generated[kind] += 1
        return {"type": kind, "caption": " ".join(caption.split())}

    def check_all_there(self) -> None:
        """Unusable if the record names or claims anything that no message shows or makes."""
        present = self.shown + self.generated
        self._check_claims([kind for kind in MEDIA_KINDS if not present[kind]])
        for kind in MEDIA_KINDS:
            left = any(is_text(caption) and caption.strip() for caption in self.captions[kind])
            if left and (self.generated[kind] or not self.shown[kind]):
                raise Unusable(f"{kind}_captions tells of more than the replies mark")
        for turn in self.turns:
            wanted = turn.record.get("input_modality")
            if turn.role == "user" and wanted in MEDIA_KINDS and not self.shown[wanted]:
                raise Unusable(f"input_modality names {wanted}, but there is none")
        if lost := [one for one in self.outputs if not self.generated[one.kind]]:
            raise Unusable(f"{lost[0].key} names {lost[0].kind} that no reply makes")
        named = {item.name for item in self._placeholders()}
        if lost_names := [name for name in self.media_lists if name not in named]:
            raise Unusable(f"{self.media_lists[lost_names[0]][0]}_list names what no turn marks")


def _is_slot(item: Item, kind: str | None, label: bool = False) -> bool:
    if not isinstance(item, Placeholder):
        return False
    return (item.kind, item.name, item.label) == (kind, None, label)


def _give(media: list[MediaReference], slots: list[_Slot]) -> None:
    """One medium for each placeholder: in order, or by the placeholders' numbers. Unusable if they do not come out even."""
    numbers = [slot.placeholder.number for slot in slots]
    if len(slots) > 1 or len(media) > 1:
        given = [number for number in numbers if number is not None]
        first = min(given, default=0)
        if len(given) == len(slots) and {n - first for n in given} == set(range(len(media))):
            for slot, number in zip(slots, given, strict=True):
                slot.show(media[number - first])
            return
    if len(media) != len(slots):
        raise _unequal(media, slots)
    for slot, one in zip(slots, media, strict=True):
        slot.show(one)


def _unequal(media: list[MediaReference], slots: list[_Slot]) -> Unusable:
    written = slots[0].placeholder.text.strip()[:60]
    return Unusable(f"{len(media)} media under {media[0].key}, {len(slots)} marks {written}")


def _media_lists(record: Record) -> dict[str, tuple[str, Any]]:
    """{name: (kind, caption)} of the media that a record lists with their captions."""
    found = {}
    for kind in MEDIA_KINDS:
        for medium in dicts_in(record.get(f"{kind}_list")):
            for name in as_list(medium.get(f"{kind}_name")):
                if is_text(name) and name:
                    found[name] = (kind, medium.get("caption"))
    return found


def as_list(value: Any) -> list[Any]:
    """The items of a field that holds one text, a list or nothing, as they stand: a bad one keeps its place."""
    if isinstance(value, list):
        return list(value)
    return [value] if is_text(value) and value else []


def dicts_in(value: Any) -> list[Record]:
    """The records of a list; none of anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _add_text(parts: list[Message], text: str) -> None:
    if text := text.strip():
        parts.append({"type": "text", "text": text})
