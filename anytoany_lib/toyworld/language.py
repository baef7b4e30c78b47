"""Words of the toy world: what a scene is called, and how a noun phrase, a caption or an answer about it reads.

`caption` is what decoders are told and what the model answers. With a generator it varies in wording (decoders and
the encoder are trained on that); without one it is the plain wording that the LLM learns to give.
"""

from __future__ import annotations

import numpy as np

from anytoany_lib.data.drawn_worlds import article, joined, pick
from anytoany_lib.toyworld.scenes import Scene
from anytoany_lib.toyworld.sounds import COUNTED

DOING = {
    "bell": "ringing",
    "bird": "singing",
    "drum": "beating",
    "car": "honking",
    "cloud": "raining",
    "heart": "beating",
    "clock": "ticking",
    "bee": "buzzing",
    "train": "chugging",
    "boat": "blowing its horn",
    "phone": "ringing",
    "cat": "meowing",
}
DOES = {
    "bell": "rings",
    "bird": "sings",
    "drum": "beats",
    "car": "honks",
    "cloud": "rains",
    "heart": "beats",
    "clock": "ticks",
    "bee": "buzzes",
    "train": "chugs",
    "boat": "blows its horn",
    "phone": "rings",
    "cat": "meows",
}
TIMES = {1: "once", 2: "twice", 3: "three times"}
PLACED = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
MOVING = {"left": "moving left", "right": "moving right", "up": "moving up", "down": "moving down"}


def moving(motion: str | None) -> str:
    """The motion as a participle: "moving left", "spinning"; "" of what stands still."""
    return MOVING.get(motion, motion) if motion else ""


def times(count: int | None) -> str:
    """How often something calls: "once", "twice"; "" where that is open."""
    return TIMES.get(count or 0, "")


def _plain(kind: str, scene: Scene) -> str:
    if kind == "audio":
        noun = joined(scene.pitch, scene.thing)
        return joined(article(noun), DOING[scene.thing], times(scene.count))
    noun = article(joined(scene.size, scene.colour, scene.thing))
    if kind == "video":
        return joined(noun, moving(scene.motion))
    return joined(noun, PLACED.get(scene.place or ""))


def _varied_audio(scene: Scene, rng: np.random.Generator) -> str:
    thing, doing, often = scene.thing, DOING[scene.thing], times(scene.count)
    return pick(
        rng,
        [
            joined("the sound of", article(joined(scene.pitch, thing)), often),
            joined(article(thing), doing, often, scene.pitch),
            joined(article(joined(scene.pitch, thing)), "that", DOES[thing], often),
            joined(article(joined(scene.pitch, thing)), "heard", often)
            if often
            else article(thing),
        ],
    )


def _varied_picture(kind: str, scene: Scene, rng: np.random.Generator) -> str:
    placed = PLACED.get(scene.place or "")
    noun = joined(scene.size, scene.colour, scene.thing)
    doing = moving(scene.motion) if kind == "video" else None
    medium = {
        "image": ["a picture of", "a drawing of", "an image of"],
        "video": ["a film of", "a video of", "a clip of"],
    }
    return pick(
        rng,
        [
            joined(pick(rng, medium[kind]), article(noun), placed, doing),
            joined(noun, placed, doing),
            joined("the", noun, placed, doing),
            joined(article(joined(scene.size, scene.thing)), "in", scene.colour, placed, doing)
            if scene.colour
            else joined("one", noun, placed, doing),
        ],
    )


def caption(kind: str, scene: Scene, rng: np.random.Generator | None = None) -> str:
    """What a medium of `kind` that shows the scene is called, in lower case.

    Without `rng` the plain wording ("a small red bell on the left", "a low bell ringing twice", "a red bell moving
    left"); with it one of several wordings, which now and then leave out colour, motion or pitch.
    """
    if kind not in ("image", "audio", "video"):
        raise ValueError(f"kind is {kind!r}; expected 'image', 'audio' or 'video'")
    if rng is None:
        return _plain(kind, scene)
    if rng.random() < 0.08:
        scene = scene.but(colour=None) if kind == "image" else scene.but(motion=None, pitch=None)
    if kind == "audio" and scene.thing in COUNTED and scene.count == 1 and rng.random() < 0.4:
        scene = scene.but(count=None)  # "a bell ringing" is heard once
    if kind == "audio" and rng.random() < 0.3:
        scene = scene.but(pitch=None)
    if rng.random() < 0.5:
        return _plain(kind, scene)
    return _varied_audio(scene, rng) if kind == "audio" else _varied_picture(kind, scene, rng)
