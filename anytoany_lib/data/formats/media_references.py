"""Which media a record names: by any key, in lists, in dicts, beside a turn or in the parts of a message.

A key that speaks of a kind of medium (`image`, `videos`, `audio_path`) names media by whatever text it holds; any other key
does if its text ends as a file of a medium does. What speaks of a medium and is no file that could be read (`image_id`, a URL,
bytes) is a claim: it counts only if nothing else shows a medium of that kind, and then the record cannot be used.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

from anytoany_lib.media.file_types import kind_by_name
from anytoany_lib.modalities import MEDIA_KINDS

NO_MEDIUM = "00000000000"  # what legacy text-only records call their image
DEEPEST = 12  # dicts and lists in one another: no record that is published goes as far
_LONGEST = 1000

_KINDS = {
    "image": "image images img imgs picture pictures pic pics photo photos",
    "audio": "audio audios sound sounds wav wavs",
    "video": "video videos vid vids",
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Tells of a medium in words or classes: no medium, and nothing that a row would lack.
_IN_WORDS = _words(
    """caption captions text texts description descriptions desc question questions answer answers prompt prompts title
    titles label labels category categories tag tags instruction instructions transcript transcription embedding embeddings
    modality modalities type types dataset class classes task keywords"""
)
# Tells of a medium as a file or a number: it is somewhere, but this does not say in which file here.
_ABOUT = _words(
    """id ids idx index url urls uri link href size sizes width height shape format mode token tokens count num number fps
    rate duration length len hash md5 sha256 score quality resolution has is feature features frames base64 b64"""
)
_OUTPUT = _words("output outputs generated target targets gen edited")
_INSIDE = _words("path paths name file filename files url uri src image audio video bytes data")
_HALF = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Endings that files of programs have too.
_OTHER_FILES = (".ts", ".mts")
_ELSEWHERE = ("data:", "http://", "https://", "s3://", "gs://")
_CONTENTS = ("bytes", "data", "base64")  # a medium itself, as text
_STILL_OR_MOVING = (".gif", ".webp", ".apng", ".png")
_TIMES = [
    ("start", "end"),
    *((f"start_{unit}", f"end_{unit}") for unit in ("time", "sec", "second", "seconds")),
    ("video_start", "video_end"),
    ("begin", "end"),
    ("clip_start", "clip_end"),
]
_SPANS = ("segment", "clip", "span", "timestamp", "timestamps", "split", "interval", "time_range")
_SURE_SPANS = _SPANS[:3]
_FRAMES = ("start_frame", "end_frame")


class Unusable(ValueError):
    """A record that gives no conversation; the message is the reason for the report."""


@dataclass(frozen=True)
class MediaReference:
    """A medium that a record names under `key`; `sure` if the key itself speaks of media, `made` if a reply makes it."""

    kind: str
    name: str
    key: str
    sure: bool = True
    made: bool = False


@dataclass
class MediaReferences:
    """All that a record names: media in order, and (kind, key) of what it claims without naming a file."""

    media: list[MediaReference] = field(default_factory=list)
    claims: list[tuple[str, str]] = field(default_factory=list)

    def kinds(self) -> dict[str, str]:
        """The kind of every name."""
        return {one.name: one.kind for one in self.media}


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that UTF-8 can hold: JSON may escape halves of characters."""
    return isinstance(value, str) and (value.isascii() or not _HALF.search(value))


def references_in(record: dict[Any, Any], without: Collection[str] = ()) -> MediaReferences:
    """What a record names outside of the keys `without`. Unusable if it is nested too deep, or a name is no text."""
    found = MediaReferences()
    for key, value in record.items():
        if key not in without:
            _collect(found, str(key), value, None, 0)
    if not found.media:
        return found
    sure = {(one.kind, file_name_of(one.name)) for one in found.media if one.sure}
    kinds = {one.kind for one in found.media if one.sure}
    media = [
        one
        for one in found.media
        if one.sure
        or (
            (one.kind, file_name_of(one.name)) not in sure
            and not (one.kind in kinds and _read_key(one.key).about)
        )
    ]
    # Without names that another key has said before; a list may say one twice.
    first: dict[tuple[str, str], str] = {}
    found.media = [m for m in media if first.setdefault((m.kind, m.name), m.key) == m.key]
    return _timed(record, found)


def file_name_of(name: str) -> str:
    """The last part of a path: by it a medium is known that one key names with its folders and another without."""
    return name.rpartition("/")[2]


@lru_cache(4096)
def words_of(key: str) -> tuple[str, ...]:
    """The words of a key, in lower case: `imagePath` and `image_path` alike."""
    return tuple(word.lower() for word in _WORD.findall(key))


class _Key(NamedTuple):
    """What the words of a key say: the `kind` of medium that it speaks of, and how.

    `in_words` or classes, `about` it as a number or file, `made` by a reply; `inside` it may be the name itself.
    """

    kind: str | None
    in_words: bool
    about: bool
    made: bool
    inside: bool


@lru_cache(4096)  # records of one set have the same few keys
def _read_key(key: str) -> _Key:
    words = set(words_of(key))
    in_words = bool(_IN_WORDS & words)
    kind = next((_KIND_OF[word] for word in words_of(key) if word in _KIND_OF), None)
    return _Key(
        None if in_words else kind,
        in_words,
        about=bool(_ABOUT & words),
        made=bool(_OUTPUT & words),
        inside=words <= _INSIDE,
    )


def kind_of_key(key: str) -> str | None:
    """The kind of medium that a key speaks of; None if it speaks of none, or of one in words."""
    return _read_key(key).kind


def _collect(found: MediaReferences, key: str, value: Any, kind: str | None, depth: int) -> None:
    """Adds what `value` names. `kind`: what a key further out says that it is."""
    if depth > DEEPEST:
        raise Unusable("nested too deep")
    of_key = _read_key(key)
    # {"image": {"path": ..}}: within, only what may be the name is one.
    kind = of_key.kind or (kind if of_key.inside else None)
    before = len(found.media) + len(found.claims)
    if isinstance(value, dict):
        inner = MediaReferences()
        for name, one in value.items():
            _collect(inner, str(name), one, kind, depth + 1)
        _timed(value, inner)
        found.media += inner.media
        found.claims += inner.claims
    elif isinstance(value, list | tuple):
        if value and all(isinstance(one, int | float) for one in value):
            value = [True]  # sizes, samples: one claim
        for one in value:
            _collect(found, key, one, kind, depth + 1)
    elif not of_key.in_words:
        _collect_value(found, key, value, kind)
    # {"audio": {"array": ..}}: what holds anything and names nothing is still said to be a medium.
    if of_key.kind and before == len(found.media) + len(found.claims) and _holds_anything(value):
        found.claims.append((of_key.kind, key))


def _holds_anything(value: Any) -> bool:
    """Whether there is anything in a value: no empty text, no lists of nothing."""
    if isinstance(value, dict):
        return any(map(_holds_anything, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_anything, value))
    return bool(value) and value != NO_MEDIUM and bool(not isinstance(value, str) or value.strip())


def _collect_value(found: MediaReferences, key: str, value: Any, kind: str | None) -> None:
    if not value or value == NO_MEDIUM:
        return
    if not isinstance(value, str):
        if kind is not None:
            found.claims.append((kind, key))
        return
    if not is_text(value):
        if kind is not None:
            raise Unusable(f"{key}: no {kind}, its name is not text")
        return
    name, of_key = value.strip(), _read_key(key)
    short = 0 < len(name) <= _LONGEST and "\n" not in name
    ending = kind_by_name(name.split("#")[0]) if short and "." in name else None
    elsewhere = name.startswith(_ELSEWHERE) or key in _CONTENTS
    if kind is not None and name and (elsewhere or (of_key.about and not ending) or not short):
        found.claims.append((kind, key))
    elif kind is not None and name:
        agreed = agreed_kind(kind, name)
        found.media.append(MediaReference(agreed, name, key, not of_key.about, of_key.made))
    elif ending and not elsewhere and not name.lower().endswith(_OTHER_FILES):
        found.media.append(MediaReference(ending, name, key, sure=False, made=of_key.made))
    elif ending and elsewhere:
        found.claims.append((ending, key))


def agreed_kind(kind: str, name: str) -> str:
    """The kind of a medium that a key calls `kind`: that of the file's ending, but where it may be what the key says."""
    ending = kind_by_name(name)
    may_be = (kind, ending) == ("audio", "video") or name.lower().endswith(_STILL_OR_MOVING)
    return kind if ending is None or may_be else ending


def _timed(record: dict[Any, Any], found: MediaReferences) -> MediaReferences:
    """The same with the record's segment on its one film or sound. Unusable if there are several, or it is no segment."""
    timed = [n for n, one in enumerate(found.media) if one.kind in ("video", "audio")]
    if not timed or any("#t=" in found.media[n].name for n in timed):
        return found
    span = segment_of(record)
    if span is None:
        return found
    films = [n for n in timed if found.media[n].kind == "video"] or timed
    if len(films) > 1:
        raise Unusable(f"start and end of {len(films)} media: which is meant?")
    one = found.media[films[0]]
    found.media[films[0]] = replace(one, name=f"{one.name}#t={span[0]:g},{span[1]:g}")
    return found


def segment_of(record: dict[Any, Any]) -> tuple[float, float] | None:
    """(start, end) in seconds of the part of a film that a record means, None if it says none; Unusable if either is no time."""
    if any(record.get(key) for key in _FRAMES):
        raise Unusable("start_frame and end_frame: a segment is told in seconds, not frames")
    for first, last in _TIMES:
        start, end = record.get(first), record.get(last)
        if start is not None and end is not None:
            return _span(start, end, first, last)
    for first, last in _TIMES:
        for key in (first, last):
            if record.get(key) not in (None, 0, "", 0.0) and seconds_of(record[key]) is not None:
                raise Unusable(f"{key} without {last if key == first else first}")
    for key in [*_SPANS, "meta", "metadata"]:
        held = record.get(key)
        if key in ("meta", "metadata") and isinstance(held, dict):
            return segment_of(held)
        if isinstance(held, list | tuple) and len(held) == 2:
            if None not in map(seconds_of, held):
                return _span(held[0], held[1], key, key)
            if key in _SURE_SPANS:
                raise Unusable(f"{key}: no two times in seconds")
    return None


def _span(start: Any, end: Any, first: str, last: str) -> tuple[float, float]:
    begins, ends = seconds_of(start), seconds_of(end)
    if begins is None or ends is None:
        raise Unusable(f"{first if begins is None else last}: no time in seconds")
    if not 0 <= begins < ends:
        raise Unusable(f"{first} {begins:g} and {last} {ends:g}: no segment")
    return begins, ends


def seconds_of(value: Any) -> float | None:
    """Seconds of a number, of a text with one, or of "1:02:03.5"; None if it is no time."""
    if isinstance(value, str):
        pieces = value.strip().split(":")
        if not 1 <= len(pieces) <= 3 or not all(re.fullmatch(r"\d+(\.\d*)?", p) for p in pieces):
            return None
        value = sum(float(p) * 60**n for n, p in enumerate(reversed(pieces)))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None


assert set(_KINDS) == set(MEDIA_KINDS)
