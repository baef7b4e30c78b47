"""How conversations about the toy world are put together: turns of texts and scenes, worded by the split's authors.

A `Talk` grows turn by turn and knows what its last reply should show; a `Maker` draws the scenes and the words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anytoany_lib.toyworld.conversations import synonyms
from anytoany_lib.toyworld.conversations.authors import KIT, is_order, kit, wordings
from anytoany_lib.toyworld.language import PLACED, article, caption, moving, times
from anytoany_lib.toyworld.pictures import COLOURS, MOTIONS
from anytoany_lib.toyworld.scenes import (
    HELD_OUT_MOTIONS,
    HELD_OUT_PAIRS,
    PLACES,
    SIZES,
    THINGS,
    Scene,
    pick,
    random_scene,
)
from anytoany_lib.toyworld.sounds import COUNTED

# First words of requests that are no orders, so that "Can you ...?" and the like do not go around them.
_QUESTIONS = {"what", "how"}
_STATEMENTS = {"I", "a", "again", "an", "and", "now", "once", "the"}
_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")
_BLANK = re.compile(r"\{(\w+?)([1-9]?)\}")
_WHOLE = {"image": "image", "audio": "sound", "video": "film"}  # the blank for all of a medium

# How a thing looks and moves where nobody has said: the usual way, none of them held out.
USUAL_COLOUR = {
    "bell": "yellow",
    "bird": "brown",
    "drum": "red",
    "car": "red",
    "cloud": "blue",
    "heart": "pink",
    "clock": "brown",
    "bee": "yellow",
    "train": "green",
    "boat": "brown",
    "phone": "green",
    "cat": "orange",
}
USUAL_MOTION = {
    "bell": "spinning",
    "bird": "up",
    "drum": "growing",
    "car": "left",
    "cloud": "left",
    "heart": "growing",
    "clock": "spinning",
    "bee": "up",
    "train": "left",
    "boat": "right",
    "phone": "blinking",
    "cat": "left",
}


@dataclass
class Talk:
    """A conversation in the making, and what its last reply should show."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    expect: list[dict[str, Any]] = field(default_factory=list)

    def user(self, *content: str | tuple[str, Scene]) -> Talk:
        """A user turn of texts and (kind, scene) media, in order."""
        parts = [
            {"type": "text", "text": item}
            if isinstance(item, str)
            else {"type": item[0], item[0]: item[1]}
            for item in content
        ]
        self.messages.append({"role": "user", "content": parts})
        return self

    def answer(self, text: str, **asked: Any) -> Talk:
        """A reply in words; `asked` are the attributes it has to name, or `says` the word that it has to contain."""
        self.expect = [{"kind": "text", "scene": asked}]
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        return self

    def produce(
        self, *media: tuple[str, Scene], kept: Iterable[str] = (), before: str = ""
    ) -> Talk:
        """A reply that names and gives one medium after the other, `before` them a sentence about what was shown.

        What a scene leaves open is shown in the usual way, and not expected. `kept` names the attributes that are as they were
        before: they are counted apart from those that were asked for.
        """
        parts: list[dict[str, Any]] = []
        self.expect = []
        for number, (kind, scene) in enumerate(media):
            shown = caption(kind, as_usual(kind, scene))
            text = f"And here is {shown}." if number else f"{before} Here is {shown}.".lstrip()
            parts.append({"type": "text", "text": text})
            parts.append({"type": kind, "caption": shown})
            expected = {"kind": kind, "scene": fit(kind, scene).asked(), "caption": shown}
            same = [name for name in kept if name in expected["scene"]]
            self.expect.append(expected | ({"kept": same} if same else {}))
        self.messages.append({"role": "assistant", "content": parts})
        return self


def fit(kind: str, scene: Scene) -> Scene:
    """What of a scene a medium of `kind` can show."""
    if kind == "image":
        return scene.but(motion=None, count=None, pitch=None)
    if kind == "video":
        return scene.but(size=None, place=None, count=None, pitch=None)
    counted = scene.but(colour=None, size=None, place=None, motion=None)
    return counted if scene.thing in COUNTED else Scene(scene.thing)


def as_usual(kind: str, scene: Scene) -> Scene:
    """The scene with what it leaves open shown as usual: a picture has a colour, a clip a motion too."""
    scene = fit(kind, scene)
    if kind == "audio":
        return scene
    motion = scene.motion or USUAL_MOTION[scene.thing]
    scene = scene.but(colour=scene.colour or USUAL_COLOUR[scene.thing])
    return scene.but(motion=motion) if kind == "video" else scene


class Maker:
    """Draws scenes and wordings for one split ("train", "validation" or "test"), unseen pairs if asked.

    With `author` the requests are that author's as far as there are any.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        split: str,
        unseen: bool = False,
        author: str | None = None,
    ):
        self.rng, self.split, self.unseen, self.author = rng, split, unseen, author

    def pick(self, options: Iterable[Any]) -> Any:
        """One of the options, all of them alike."""
        return pick(self.rng, options)

    def chance(self, share: float) -> bool:
        """True in this share of the draws."""
        return bool(self.rng.random() < share)

    def scene(self, kind: str) -> Scene:
        """A scene fit to be shown as `kind`."""
        return random_scene(kind, self.rng, held_out=self.unseen and kind != "audio")

    def sound_of(self, thing: str) -> Scene:
        """A sound of the thing, with a count and a pitch if it is one that calls out."""
        if thing not in COUNTED:
            return Scene(thing)
        return Scene(thing, count=int(self.rng.integers(1, 4)), pitch=self.pick(("low", "high")))

    def colour_for(self, thing: str, other_than: str | None = None) -> str:
        """A colour for a thing, held out or not as this maker's scenes are."""
        fitting = [
            c for c in COLOURS if ((thing, c) in HELD_OUT_PAIRS) == self.unseen and c != other_than
        ]
        return self.pick(fitting or [c for c in COLOURS if c != other_than])

    def motion_for(self, thing: str, other_than: str | None = None) -> str:
        """A motion that was not held out for this thing."""
        return self.pick(
            m for m in MOTIONS if (thing, m) not in HELD_OUT_MOTIONS and m != other_than
        )

    def things_like(self, scene: Scene) -> list[str]:
        """The other things that may have the scene's colour and motion, held out or not as this maker's scenes are."""
        fitting = [
            thing
            for thing in THINGS
            if thing != scene.thing
            and ((thing, scene.colour) in HELD_OUT_PAIRS)
            == (self.unseen and scene.colour is not None)
            and (thing, scene.motion) not in HELD_OUT_MOTIONS
        ]
        return fitting or [thing for thing in THINGS if thing != scene.thing]

    # --- words ---

    def said(self, name: str, *sentence: str, **words: str | None) -> str:
        """One of the kit's wordings as it stands, with its blanks filled.

        The more alternatives a wording has, the more often it is drawn.
        """
        return self._drawn(kit()[name]["test" if self.split == "test" else "train"]).format(
            *sentence, **words
        )

    def _drawn(self, options: Sequence[str]) -> str:
        wording = self.pick(w for w in options for _ in range(1 + w.count("[")))
        return _ALTERNATIVES.sub(lambda found: self.pick(found[1].split("|")), wording)

    def _own_line(self, key: str, options: Sequence[str]) -> str:
        """One of the kit's wordings of a key; orders are plain or polite."""
        request = self._drawn(options)
        first = request.split()[0]
        if not is_order(key):
            return request
        if first in _QUESTIONS:
            sentence = f"{request}?"
        elif first in _STATEMENTS:
            sentence = f"{request}."
        else:
            polite = kit()["polite"]["test" if self.split == "test" else "train"]
            sentence = self._drawn(polite).replace("{}", request)
        return sentence[0].upper() + sentence[1:]

    def line(self, *keys: str, fits: Callable[[str], bool] | None = None) -> str:
        """A wording of one of the keys with its blanks, of one of the authors that have any (that `fits`)."""
        key = self.pick(keys)
        found = {
            author: [line for line in lines.get(key, ()) if fits is None or fits(line)]
            for author, lines in wordings(self.split).items()
        }
        authors = [author for author, lines in found.items() if lines]
        author = self.author if self.author in authors else self.pick(authors)
        lines = found[author]
        return self._own_line(key, lines) if author == KIT else self.pick(lines)

    def filled(self, line: str, **words: str) -> str:
        """The wording with its blanks filled, typed as people type."""
        return self.typed(_BLANK.sub(lambda blank: words[blank[1] + blank[2]], line))

    def ask(self, *keys: str, scene: Scene | None = None) -> str:
        """A request in one of the keys' wordings, its blanks filled with what the scene says."""
        line = self.line(*keys)
        names = {name for name, _ in _BLANK.findall(line)}
        return self.filled(line, **self._words_for(names, scene or Scene("")))

    def _words_for(self, names: Iterable[str], scene: Scene, number: str = "") -> dict[str, str]:
        """What fills the blanks of these names about a scene (those with this number)."""
        kinds = {blank: kind for kind, blank in _WHOLE.items()}
        return {
            name + number: self._phrase(kinds[name], scene)
            if name in kinds
            else self._word(name, scene)
            for name in sorted(names)
        }

    def _phrase(self, kind: str, scene: Scene) -> str:
        scene = fit(kind, scene)
        if self.split == "test":
            return caption(kind, scene)
        return synonyms.worded(kind, scene, self.rng)

    def _word(self, name: str, scene: Scene) -> str:
        """The word for one attribute of a scene: the plain one in tests, one of many in training."""
        rng, varied = self.rng, self.split != "test"
        if name in ("thing", "a_thing"):
            noun = synonyms.thing(scene, rng) if varied else scene.thing
            return article(noun) if name == "a_thing" else noun
        if name == "colour":
            return synonyms.colour(scene, rng) if varied else str(scene.colour)
        if name == "moving" and varied:
            return synonyms.moving(str(scene.motion), rng)
        if name == "moving":
            return moving(scene.motion)
        value: Any = getattr(scene, {"times": "count"}.get(name, name))
        if varied:
            return self.pick(_VARIED[name][value])
        if name == "times":
            return times(value)
        return PLACED[value] if name == "place" else str(value)

    def typed(self, text: str) -> str:
        """A training request as hurried people type it: now and then in small letters, shouted, or with a slip."""
        if self.split == "test":
            return text
        draw = self.rng.random()
        if draw < 0.2:
            text = text.lower()
        elif draw < 0.24:
            text = text.upper()
        if self.chance(0.12):
            text = text.rstrip(".!?")
        return self._slip(text) if self.chance(0.12) else text

    def _slip(self, text: str) -> str:
        """The text with two letters of a longer word swapped, one left out, or one doubled."""
        words = [match.span() for match in re.finditer(r"[A-Za-z]{5,}", text)]
        if not words:
            return text
        start, end = self.pick(words)
        at = int(self.rng.integers(start + 1, end - 1))
        slip = self.pick(
            (text[at + 1] + text[at], text[at + 1], text[at] + text[at] + text[at + 1])
        )
        return text[:at] + slip + text[at + 2 :]

    def described(self, kind: str, names: Iterable[str]) -> Scene:
        """A scene for a medium of `kind` of which just what these blanks say is fixed; its thing always is."""
        names = set(names)
        thing = self.scene(kind).thing
        if names & {"times", "pitch"} and thing not in COUNTED:
            thing = self.pick(COUNTED)
        values = {
            "colour": lambda: self.colour_for(thing),
            "size": lambda: self.pick(SIZES),
            "place": lambda: self.pick(PLACES),
            "moving": lambda: self.motion_for(thing),
            "times": lambda: self.pick((1, 2, 3)),
            "pitch": lambda: self.pick(("low", "high")),
        }
        attributes = {"moving": "motion", "times": "count"}
        return Scene(thing).but(
            **{attributes.get(n, n): value() for n, value in values.items() if n in names}
        )

    def _whole(self, kind: str, spoken: Scene | None) -> Scene:
        """A scene all of which is said; now and then of the thing that was spoken of before."""
        scene = self.scene(kind)
        if spoken and not self.unseen and self.chance(0.4):
            thing = spoken.thing
            if kind == "audio":
                scene = self.sound_of(thing)
            else:
                scene = scene.but(thing=thing, colour=self.colour_for(thing))
                scene = scene.but(motion=self.motion_for(thing)) if scene.motion else scene
        if kind == "audio" and self.chance(0.5):
            scene = Scene(scene.thing)
        return scene

    def wish(self, kinds: Sequence[str], *keys: str) -> tuple[str, list[tuple[str, Scene]]]:
        """A request in words for media of these kinds, in order: (its text, the media with what was said of them).

        A wording says all of a medium ({image}), or some attributes; a medium that it says nothing of shows the thing before.
        """
        whole_first = f"{{{_WHOLE[kinds[0]]}" if self.unseen else ""
        line = self.line(*keys, fits=lambda line: whole_first in line)
        blanks = _BLANK.findall(line)
        numbered = any(number for _, number in blanks)
        media: list[tuple[str, Scene]] = []
        words: dict[str, str] = {}
        spoken: Scene | None = None
        for place, kind in enumerate(kinds, 1):
            number = str(place) if numbered else ""
            names = {name for name, n in blanks if n == number}
            apart = names - set(_WHOLE.values())
            scene = spoken
            if _WHOLE[kind] in names:
                scene = self._whole(kind, spoken)
                words |= self._words_for({_WHOLE[kind]}, scene, number)
            if spoken is None or numbered:
                said = self.described(kind, apart)
                if scene is not None and _WHOLE[kind] in names:
                    said = said.but(thing=scene.thing, colour=scene.colour)
                spoken = said
                scene = scene if _WHOLE[kind] in names else said
                words |= self._words_for(apart, said, number)
            assert scene
            media.append((kind, fit(kind, scene)))
        return self.filled(line, **words), media


_VARIED: dict[str, Any] = {
    "times": synonyms.TIMES,
    "place": synonyms.PLACES,
    "size": synonyms.SIZES,
    "pitch": synonyms.PITCHES,
}
