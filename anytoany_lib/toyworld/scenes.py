"""What can be the case in the toy world, and how it looks, sounds and moves.

A `Scene` says it (a thing, its colour, size, place, motion, how often it calls and how high); `random_scene` draws
one, `render` turns it into a picture, a sound or a film. Some colour-thing and motion-thing pairs are held out of
all training, to measure composition rather than memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
from PIL import Image

from anytoany_lib.data.drawn_worlds import DrawnScene, pick
from anytoany_lib.toyworld.pictures import (
    COLOURS,
    DRAWINGS,
    MOTIONS,
    Pose,
    film_frames,
    ground,
    picture,
)
from anytoany_lib.toyworld.sounds import COUNTED, PITCHES, RATE, samples_of

THINGS = tuple(DRAWINGS)
SIZES = {"small": (0.17, 0.2), "big": (0.36, 0.4)}
PLACES = {"left": (0.3, 0.5), "right": (0.7, 0.5), "top": (0.5, 0.3), "bottom": (0.5, 0.7)}

# What can be said of a scene that is shown as one kind of medium.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "image": ("thing", "colour", "size", "place"),
    "audio": ("thing", "count", "pitch"),
    "video": ("thing", "colour", "motion"),
}

# One colour for every thing, and a second for two of them: each colour is missed by one or two things.
HELD_OUT_PAIRS = frozenset(
    [(thing, list(COLOURS)[(3 * i + 1) % len(COLOURS)]) for i, thing in enumerate(THINGS)]
    + [("cat", "blue"), ("boat", "red")]
)
HELD_OUT_MOTIONS = frozenset(
    (thing, MOTIONS[(5 * i + 2) % len(MOTIONS)]) for i, thing in enumerate(THINGS)
)


@dataclass(frozen=True)
class Scene(DrawnScene):
    """One state of affairs; None where an attribute does not apply or is left open."""

    thing: str
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    motion: str | None = None
    count: int | None = None
    pitch: str | None = None


def _is_held_out(scene: Scene) -> bool:
    return (scene.thing, scene.colour) in HELD_OUT_PAIRS or (
        scene.thing,
        scene.motion,
    ) in HELD_OUT_MOTIONS


def random_scene(kind: str, rng: np.random.Generator, held_out: bool = False) -> Scene:
    """A scene fit to be shown as `kind` ("image", "audio", "video").

    With `held_out` only scenes with a held-out pair come up, without it none does; sounds have no such pairs.
    """
    if kind == "audio":
        thing = pick(rng, THINGS)
        if thing not in COUNTED:
            return Scene(thing)
        return Scene(thing, count=int(rng.integers(1, 4)), pitch=pick(rng, PITCHES))
    while True:
        scene = Scene(pick(rng, THINGS), colour=pick(rng, COLOURS))
        if kind == "video":
            scene = scene.but(motion=pick(rng, MOTIONS))
        elif kind == "image":
            if rng.random() < 0.4:
                scene = scene.but(size=pick(rng, SIZES))
            if rng.random() < 0.3:
                scene = scene.but(place=pick(rng, PLACES))
        else:
            raise ValueError(f"kind is {kind!r}; expected 'image', 'audio' or 'video'")
        if _is_held_out(scene) == held_out:
            return scene


def _pose(scene: Scene, rng: np.random.Generator) -> Pose:
    low, high = SIZES.get(scene.size or "", (0.22, 0.36) if scene.place is None else (0.22, 0.28))
    x, y = PLACES.get(scene.place or "", (0.5, 0.5))
    if scene.place and scene.size == "big":
        low, high = 0.31, 0.33  # a big thing at the edge still has to fit in
    wander = 0.03 if scene.place else 0.06
    dx, dy = rng.uniform(-wander, wander, size=2)
    turn = 0.0 if scene.motion else rng.uniform(-0.12, 0.12)
    return Pose(x + dx, y + dy, rng.uniform(low, high), turn)


@overload
def render(kind: Literal["image"], scene: Scene, rng: np.random.Generator) -> Image.Image: ...


@overload
def render(
    kind: Literal["audio", "video"], scene: Scene, rng: np.random.Generator
) -> np.ndarray: ...


@overload
def render(kind: str, scene: Scene, rng: np.random.Generator) -> Image.Image | np.ndarray: ...


def render(kind: str, scene: Scene, rng: np.random.Generator) -> Image.Image | np.ndarray:
    """The scene as PIL image (64 x 64), float32 samples (32000,) at 16 kHz, or uint8 film (8, 64, 64, 3) at 4 fps."""
    if kind == "audio":
        return samples_of(scene.thing, scene.count or 1, scene.pitch or pick(rng, PITCHES), rng)
    colour = scene.colour or pick(rng, COLOURS)
    if kind == "image":
        return picture(scene.thing, colour, _pose(scene, rng), ground(rng))
    if kind == "video":
        start = _pose(scene, rng)
        travelling = scene.motion in ("left", "right", "up", "down", "growing", "shrinking")
        start = replace(start, radius=min(start.radius, 0.27) if travelling else start.radius)
        return film_frames(
            scene.thing, colour, scene.motion or pick(rng, MOTIONS), start, ground(rng)
        )
    raise ValueError(f"kind is {kind!r}; expected 'image', 'audio' or 'video'")


def draw(thing: str, colour: str, rng: np.random.Generator) -> Image.Image:
    """A 64 x 64 RGB picture of a coloured thing, at some size and place on a light ground."""
    return render("image", Scene(thing, colour), rng)


def sound(thing: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Two seconds of a thing's sound: (float32 samples (32000,), 16000)."""
    count = int(rng.integers(1, 4))
    return render("audio", Scene(thing, count=count, pitch=pick(rng, PITCHES)), rng), RATE


def film(thing: str, colour: str, motion: str, rng: np.random.Generator) -> np.ndarray:
    """A film of a moving coloured thing: uint8 (8, 64, 64, 3), 4 frames a second."""
    return render("video", Scene(thing, colour, motion=motion), rng)
