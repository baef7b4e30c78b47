"""Words of the small world: captions of scenes, plain or varied, and requests for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from anytoany_lib.data.drawn_worlds import article, joined, pick
from anytoany_lib.smallworld.scenes import Scene
from anytoany_lib.smallworld.things import THINGS

_NUMBERS = {2: "two", 3: "three"}
_TIMES = {1: "once", 2: "twice", 3: "three times"}
_PLACED = {
    "left": ("on the left", "at the left edge"),
    "right": ("on the right", "at the right edge"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
}
_ON = {
    "white": ("on white", "on a white ground"),
    "black": ("on black", "on a black ground"),
    "sky": ("in the sky", "before a blue sky"),
    "grass": ("on grass", "in a meadow"),
    "sand": ("on sand", "at the beach"),
    "night": ("at night", "under the stars"),
}
_MOVING = {
    "left": ("moving left", "going to the left"),
    "right": ("moving right", "going to the right"),
    "up": ("moving up", "rising"),
    "down": ("moving down", "sinking"),
    "growing": ("growing", "getting bigger"),
    "shrinking": ("shrinking", "getting smaller"),
}
_SIZED = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
_MEDIA = {
    "image": ("a picture of", "an image of", "a drawing of"),
    "audio": ("the sound of", "a recording of"),
    "video": ("a clip of", "a film of", "a video of"),
}
# Behind each stands a caption with its article.
REQUESTS = {
    "image": ("Draw {}.", "Show me {}.", "I would like a picture of {}.", "Can you paint {}?"),
    "audio": ("Play {}.", "Let me hear {}.", "I want to hear {}.", "What does {} sound like?"),
    "video": (
        "Film {}.",
        "Make a clip of {}.",
        "Show me {} in a video.",
        "I would like a film of {}.",
    ),
}
QUESTIONS = {
    "image": ("What is this?", "What does the picture show?", "Describe the picture."),
    "audio": ("What do you hear?", "What is this sound?", "Describe the sound."),
    "video": ("What happens?", "What does the clip show?", "Describe the clip."),
}


def caption(kind: str, scene: Scene, rng: np.random.Generator | None = None) -> str:
    """What a medium of `kind` that shows the scene is called, with its article.

    Without `rng` the plain wording ("a small red bell on the left on grass", "a low bell ringing twice", "a red bell moving left");
    with it other names of the thing and other words, all of which say the same.
    """
    if kind not in _MEDIA:
        raise ValueError(f"kind is {kind!r}; expected 'image', 'audio' or 'video'")
    said = _said(kind, scene, rng)
    if rng is not None and rng.random() < 0.25:
        return f"{pick(rng, _MEDIA[kind])} {said}"
    return said


def _said(kind: str, scene: Scene, rng: np.random.Generator | None) -> str:
    """A scene in words, plain or with words drawn from those that say the same."""

    def worded(table: Mapping[str, tuple[str, ...]], name: str | None) -> str:
        if name is None:
            return ""
        return table[name][0] if rng is None else pick(rng, table[name])

    thing = THINGS[scene.thing]
    name = thing.name if rng is None else pick(rng, (thing.name, thing.name, *thing.also))
    if kind == "audio":
        doing = thing.voice.doing if thing.voice else ""
        return joined(article(joined(scene.pitch, name)), doing, _TIMES[scene.count or 1])
    after = joined(
        worded(_PLACED, scene.place) if kind == "image" else "",
        worded(_MOVING, scene.motion) if kind == "video" else "",
        worded(_ON, scene.ground),
    )
    if (scene.count or 1) > 1:
        return joined(_NUMBERS[scene.count or 2], scene.hue, thing.plural, after)
    return joined(article(joined(worded(_SIZED, scene.size), scene.hue, name)), after)


def request(kind: str, scene: Scene, rng: np.random.Generator) -> str:
    """A wish for a medium that shows the scene."""
    return pick(rng, REQUESTS[kind]).format(_said(kind, scene, rng))


def question(kind: str, rng: np.random.Generator) -> str:
    """A question about a medium that is shown."""
    return str(pick(rng, QUESTIONS[kind]))


def sentence(text: str) -> str:
    """A caption as a sentence."""
    return text[0].upper() + text[1:] + "."
