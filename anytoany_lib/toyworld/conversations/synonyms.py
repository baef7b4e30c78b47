"""Other words for what a scene shows, as people who ask for it use them: "a tiny kitty, rising" for a small cat moving up.

Requests of the training set are worded so; captions never are. Every phrase names just what the scene fixes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from anytoany_lib.toyworld.language import DOES, DOING, article, caption
from anytoany_lib.toyworld.scenes import Scene, pick

_USUAL = 0.8  # how often a thing or a colour is called by its own name

THINGS: Mapping[str, Sequence[str]] = {
    "bell": ("church bell", "handbell"),
    "bird": ("birdie", "little bird", "songbird"),
    "drum": ("snare drum", "bass drum"),
    "car": ("automobile", "auto", "motorcar"),
    "cloud": ("raincloud", "rain cloud"),
    "heart": ("love heart", "heart shape"),
    "clock": ("wall clock", "timepiece"),
    "bee": ("bumblebee", "honey bee"),
    "train": ("locomotive", "steam train"),
    "boat": ("ship", "sailboat", "sailing boat", "vessel"),
    "phone": ("telephone", "smartphone", "mobile phone"),
    "cat": ("kitty", "kitten", "pussycat"),
}
COLOURS: Mapping[str, Sequence[str]] = {
    "red": ("scarlet", "bright red", "crimson"),
    "orange": ("bright orange", "orange-coloured"),
    "yellow": ("bright yellow", "lemon yellow"),
    "green": ("grass green", "dark green"),
    "blue": ("dark blue", "navy", "navy blue"),
    "purple": ("violet", "dark purple"),
    "pink": ("rosy pink", "light pink"),
    "brown": ("chestnut brown", "dark brown", "chocolate brown"),
}
SIZES: Mapping[str, Sequence[str]] = {
    "small": ("small", "little", "tiny", "wee", "mini", "teeny", "really small", "very small"),
    "big": ("big", "large", "huge", "giant", "enormous", "massive", "really big", "very large"),
}
PLACES: Mapping[str, Sequence[str]] = {
    "left": (
        "on the left",
        "on the left side",
        "at the left",
        "to the left",
        "left side",
        "at the left edge",
    ),
    "right": (
        "on the right",
        "on the right side",
        "at the right",
        "to the right",
        "right side",
        "at the right edge",
    ),
    "top": (
        "at the top",
        "up top",
        "near the top",
        "in the upper part",
        "at the upper edge",
        "top",
    ),
    "bottom": (
        "at the bottom",
        "down below",
        "near the bottom",
        "in the lower part",
        "at the lower edge",
        "bottom",
    ),
}
# As participles, and as clauses that can only follow a noun.
MOTIONS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "left": (
        ("moving left", "going left", "moving to the left", "heading left", "travelling left", "drifting to the left", "leftwards"),
        ("that moves left", "which goes to the left", "that drives off to the left"),
    ),
    "right": (
        ("moving right", "going right", "moving to the right", "heading right", "travelling right", "drifting to the right", "rightwards"),
        ("that moves right", "which goes to the right", "that drives off to the right"),
    ),
    "up": (
        ("moving up", "going up", "rising", "moving upwards", "floating up", "climbing", "ascending", "lifting off"),
        ("that rises", "which goes up", "that floats upwards", "that flies up"),
    ),
    "down": (
        ("moving down", "going down", "falling", "sinking", "dropping", "moving downwards", "descending"),
        ("that falls", "which goes down", "that sinks", "that drops down"),
    ),
    "spinning": (
        ("spinning", "rotating", "turning around", "twirling", "spinning around", "going round and round", "whirling"),
        ("that spins", "which rotates", "that turns in circles"),
    ),
    "growing": (
        ("growing", "getting bigger", "becoming larger", "expanding", "growing bigger", "swelling", "getting bigger and bigger"),
        ("that grows", "which gets bigger", "that becomes huge"),
    ),
    "shrinking": (
        ("shrinking", "getting smaller", "becoming smaller", "getting tiny", "shrinking away", "getting smaller and smaller"),
        ("that shrinks", "which gets smaller", "that becomes tiny"),
    ),
    "blinking": (
        ("blinking", "flashing", "flickering", "blinking on and off", "flashing on and off"),
        ("that blinks", "which flashes", "that comes and goes"),
    ),
}  # fmt: skip
TIMES: Mapping[int, Sequence[str]] = {
    1: ("once", "one time", "1x", "a single time", "just once", "only once", "1 time"),
    2: ("twice", "two times", "2x", "2 times", "two times in a row", "twice in a row"),
    3: ("three times", "thrice", "3x", "3 times", "three times in a row"),
}
PITCHES: Mapping[str, Sequence[str]] = {
    "low": ("low", "deep", "low-pitched", "dark"),
    "high": ("high", "high-pitched", "shrill", "bright"),
}


def thing(scene: Scene, rng: np.random.Generator) -> str:
    """What the thing is called, without an article."""
    return scene.thing if rng.random() < _USUAL else pick(rng, THINGS[scene.thing])


def colour(scene: Scene, rng: np.random.Generator) -> str:
    """What its colour is called; "" where that is open."""
    if not scene.colour:
        return ""
    return scene.colour if rng.random() < _USUAL else pick(rng, COLOURS[scene.colour])


def moving(motion: str, rng: np.random.Generator) -> str:
    """The motion as a participle."""
    return pick(rng, MOTIONS[motion][0])


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _with_article(noun: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.65:
        return article(noun)
    return noun if draw < 0.85 else f"the {noun}" if draw < 0.93 else f"one {noun}"


def _sound(scene: Scene, rng: np.random.Generator) -> str:
    name, often = thing(scene, rng), pick(rng, TIMES[scene.count]) if scene.count else ""
    pitch = pick(rng, PITCHES[scene.pitch]) if scene.pitch else ""
    noun = _with_article(_words(pitch, name), rng)
    doing, does = DOING[scene.thing], DOES[scene.thing]
    forms = [_words(noun, doing, often), _words(noun, "that", does, often), _words(noun, often)]
    if pitch:
        forms.append(f"{_words(_with_article(name, rng), doing, often)}, {pitch}")
    if often:
        forms.append(f"{_words(noun, doing)}, {often}")
    return pick(rng, forms)


def _shown(kind: str, scene: Scene, rng: np.random.Generator) -> str:
    name, shade = thing(scene, rng), colour(scene, rng)
    size = pick(rng, SIZES[scene.size]) if scene.size else ""
    where = pick(rng, PLACES[scene.place]) if scene.place else ""
    if kind == "video" and scene.motion:
        where = pick(rng, pick(rng, MOTIONS[scene.motion]))
    noun = _with_article(_words(size, shade, name), rng)
    forms = [_words(noun, where), _words(noun, where)]
    if shade:
        forms.append(_words(_with_article(_words(size, name), rng), "in", shade, where))
        forms.append(_words(_with_article(_words(shade, size, name), rng), where))
        extra = ", ".join(part for part in (shade, size, where) if part)
        forms.append(f"{_with_article(name, rng)}, {extra}")
    if where:
        forms.append(f"{noun}, {where}")
    return re.sub(r"^(that|which) ", "", pick(rng, forms))


def worded(kind: str, scene: Scene, rng: np.random.Generator) -> str:
    """A noun phrase for a medium of `kind` that shows the scene, in one of many wordings, none of which leaves anything out."""
    if rng.random() < 0.3:
        return caption(kind, scene)
    return _sound(scene, rng) if kind == "audio" else _shown(kind, scene, rng)
