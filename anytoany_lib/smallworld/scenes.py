"""What can be the case in the small world, drawn from a seed.

A `Scene` says it: a thing, its hue, place, size, number and ground in a picture; its pitch and how often it sounds; how it moves
across a clip. Some pairs are held out of all training, to measure composition rather than memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytoany_lib.data.drawn_worlds import DrawnScene, pick
from anytoany_lib.smallworld.things import HEARD, THINGS

# Degrees of the colour circle.
HUES = {
    "red": 0,
    "orange": 28,
    "yellow": 52,
    "green": 125,
    "blue": 215,
    "purple": 275,
    "pink": 325,
}
PLACES = {"left": (0.27, 0.5), "right": (0.73, 0.5), "top": (0.5, 0.27), "bottom": (0.5, 0.73)}
SIZES = {"small": 0.26, "big": 0.72}
GROUNDS = ("white", "black", "sky", "grass", "sand", "night")
MOTIONS = ("left", "right", "up", "down", "growing", "shrinking")
PITCHES = ("low", "high")
COUNTS = (1, 2, 3)

# What can be said of a scene that is shown as one kind of medium.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "image": ("thing", "hue", "size", "place", "count", "ground"),
    "audio": ("thing", "count", "pitch"),
    "video": ("thing", "hue", "motion", "ground"),
}


def _one_of_each(names: Iterable[str], values: tuple[Any, ...], step: int) -> frozenset:
    """One value for every name, each value about as often."""
    return frozenset((name, values[(step * n + 1) % len(values)]) for n, name in enumerate(names))


HELD_OUT_HUES = _one_of_each(THINGS, tuple(HUES), 3)
HELD_OUT_MOTIONS = _one_of_each(THINGS, MOTIONS, 5)
_SOUNDS = tuple((pitch, count) for pitch in PITCHES for count in COUNTS)
HELD_OUT_SOUNDS = _one_of_each((n for n in HEARD if THINGS[n].voice.pitched), _SOUNDS, 5)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Scene(DrawnScene):
    """One state of affairs; None where an attribute does not apply, or is left as it comes."""

    thing: str
    hue: str | None = None
    size: str | None = None
    place: str | None = None
    count: int | None = None
    ground: str | None = None
    motion: str | None = None
    pitch: str | None = None


def is_held_out(scene: Scene) -> bool:
    """Whether a scene has a pair that no training set shows."""
    return (
        (scene.thing, scene.hue) in HELD_OUT_HUES
        or (scene.thing, scene.motion) in HELD_OUT_MOTIONS
        or (scene.thing, (scene.pitch, scene.count)) in HELD_OUT_SOUNDS
    )


def random_scene(
    kind: str, rng: np.random.Generator, held_out: bool = False, thing: str | None = None
) -> Scene:
    """A scene fit to be shown as `kind` ("image", "audio", "video"), of any thing or of this one.

    With `held_out` only scenes with a held-out pair come up, without it none does. ValueError if the thing has no such scene.
    """
    maker = {"image": _picture, "audio": _sound, "video": _clip}.get(kind)
    if maker is None:
        raise ValueError(f"kind is {kind!r}; expected 'image', 'audio' or 'video'")
    if kind == "audio" and thing is not None and THINGS[thing].voice is None:
        raise ValueError(f"nothing is heard of the {thing}: expected one of {', '.join(HEARD)}")
    for _ in range(1000):
        scene = maker(thing or pick(rng, HEARD if kind == "audio" else THINGS), rng)
        if is_held_out(scene) == held_out:
            return scene
    raise ValueError(f"no {'held-out ' if held_out else ''}{kind} of the {thing} exists")


def _sometimes(rng: np.random.Generator, share: float, options: Iterable[Any]) -> Any:
    return pick(rng, options) if rng.random() < share else None


def _picture(thing: str, rng: np.random.Generator) -> Scene:
    count = int(rng.integers(2, 4)) if rng.random() < 0.25 else 1
    return Scene(
        thing,
        hue=_sometimes(rng, 0.6, HUES),
        size=_sometimes(rng, 0.35, SIZES) if count == 1 else None,
        place=_sometimes(rng, 0.35, PLACES) if count == 1 else None,
        count=count,
        ground=_sometimes(rng, 0.5, GROUNDS),
    )


def _sound(thing: str, rng: np.random.Generator) -> Scene:
    voice = THINGS[thing].voice
    pitched = voice is not None and voice.pitched
    return Scene(thing, count=pick(rng, COUNTS), pitch=pick(rng, PITCHES) if pitched else None)


def _clip(thing: str, rng: np.random.Generator) -> Scene:
    return Scene(
        thing,
        hue=_sometimes(rng, 0.5, HUES),
        motion=pick(rng, MOTIONS),
        ground=_sometimes(rng, 0.4, GROUNDS),
    )
