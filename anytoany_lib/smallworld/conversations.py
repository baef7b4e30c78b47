"""Conversations about the small world: twelve directions between words, pictures, sounds and clips.

A task is a request and its reply. A medium that is asked for of something shown is of the same thing, and where both can be seen of the same hue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from anytoany_lib.data.drawn_worlds import pick
from anytoany_lib.data.rows import exchange, text_part
from anytoany_lib.smallworld.language import caption, question, request, sentence
from anytoany_lib.smallworld.scenes import ATTRIBUTES, Scene, is_held_out, random_scene
from anytoany_lib.smallworld.things import HEARD

KINDS = tuple(ATTRIBUTES)
TASKS = (
    *(f"text->{kind}" for kind in KINDS),
    *(f"{kind}->text" for kind in KINDS),
    *(f"{shown}->{made}" for shown in KINDS for made in KINDS if shown != made),
)
_OF_SHOWN = {
    "image": ("Draw it.", "What does it look like?", "Make a picture of it."),
    "audio": ("Play its sound.", "What does it sound like?", "Let me hear it."),
    "video": ("Film it.", "Make a clip of it.", "Show me how it moves."),
}


@dataclass(frozen=True)
class Talk:
    """A request and its reply, with scenes in the place of media, and what the reply is expected to show."""

    messages: list[dict[str, Any]]
    expect: list[dict[str, Any]]


def talk(task: str, rng: np.random.Generator, held_out: bool = False) -> Talk:
    """A conversation of a task, "text->image" for example; with `held_out` about scenes that have a held-out pair."""
    source, target = task.split("->")
    if source == "text":
        scene = random_scene(target, rng, held_out)
        return _reply([text_part(request(target, scene, rng))], target, scene)
    if target == "text":
        scene = random_scene(source, rng, held_out)
        content = [_medium(source, scene), text_part(question(source, rng))]
        answer = sentence(caption(source, scene))
        expect = [{"kind": "text", "scene": scene.asked()}]
        return Talk(exchange(content, [text_part(answer)]), expect)
    thing = pick(rng, HEARD) if "audio" in (source, target) else None
    shown = random_scene(source, rng, held_out and source != "audio", thing)
    made = _of(shown, target, rng)
    asked = [_medium(source, shown), text_part(pick(rng, _OF_SHOWN[target]))]
    return _reply(asked, target, made)


def _of(shown: Scene, kind: str, rng: np.random.Generator) -> Scene:
    """A scene of another kind about the thing that is shown, with no more said of it than that and its hue."""
    if kind == "audio":
        return Scene(shown.thing, count=1)
    scene = Scene(shown.thing, hue=shown.hue, count=1 if kind == "image" else None)
    if kind == "image":
        return scene
    while True:  # a clip moves somehow, and never as no training set shows
        moving = scene.but(motion=random_scene("video", rng, thing=shown.thing).motion)
        if not is_held_out(moving.but(hue=None)):
            return moving


def _medium(kind: str, scene: Scene) -> dict[str, Any]:
    return {"type": kind, kind: scene}


def _reply(asked: list[dict[str, Any]], kind: str, scene: Scene) -> Talk:
    called = caption(kind, scene)
    answer = [text_part(f"Here is {called}."), _medium(kind, scene) | {"caption": called}]
    return Talk(exchange(asked, answer), [{"kind": kind, "scene": scene.asked()}])
