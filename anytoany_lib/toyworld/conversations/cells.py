"""The sixteen cells of the any-to-any matrix: one request and one reply of each direction.

A task is a function `(Maker) -> Talk`: it picks scenes, words the request with the split's authors, and gives the reply with
the caption that each generated medium has to be told. What an edit does not ask for is `kept`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anytoany_lib.toyworld.conversations.authors import kit
from anytoany_lib.toyworld.conversations.talks import Maker, Talk
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.scenes import PLACES, SIZES, THINGS, Scene
from anytoany_lib.toyworld.sounds import COUNTED, PITCHES

Task = Callable[[Maker], Talk]


def sentence(text: str) -> str:
    """A caption as a sentence."""
    return text[0].upper() + text[1:] + "."


def riddle(m: Maker) -> Talk:
    """A fact about a thing, in words: which one is it?"""
    thing = m.pick(THINGS)
    asked = m.typed(m.said("riddle", fact=m.pick(kit()["facts"][thing])))
    return Talk().user(asked).answer(f"It is a {thing}.", thing=thing)


def _request(kind: str) -> Task:
    def task(m: Maker) -> Talk:
        """A medium asked for in words."""
        text, media = m.wish([kind], f"ask_{kind}")
        return Talk().user(text).produce(*media)

    return task


def _description(kind: str, *keys: str) -> Task:
    def task(m: Maker) -> Talk:
        """A medium, described in a sentence."""
        scene = m.scene(kind)
        reply = sentence(caption(kind, scene))
        return Talk().user((kind, scene), m.ask(*keys)).answer(reply, **scene.asked())

    return task


def edited(m: Maker, kind: str, scene: Scene) -> tuple[str, Scene, list[str]]:
    """A change to what a medium shows: (the request, what it shall show, the names of what stays)."""
    changes: dict[str, tuple[tuple[str, ...], Callable[[], Any]]] = {
        "thing": (("edit_thing",), lambda: m.pick(m.things_like(scene))),
    }
    if kind != "audio":
        recoloured = "image_recoloured" if kind == "image" else "clip_recoloured"
        new_colour = lambda: m.colour_for(scene.thing, other_than=scene.colour)  # noqa: E731
        changes["colour"] = (("edit_colour", recoloured), new_colour)
    if kind == "image":
        changes["size"] = (("edit_size",), lambda: m.pick(s for s in SIZES if s != scene.size))
        changes["place"] = (("edit_place",), lambda: m.pick(p for p in PLACES if p != scene.place))
    if kind == "video":
        new_motion = lambda: m.motion_for(scene.thing, scene.motion)  # noqa: E731
        changes["motion"] = (("edit_motion", "clip_moving"), new_motion)
    if kind == "audio" and scene.thing in COUNTED:
        del changes["thing"]
        new_count = lambda: m.pick(n for n in (1, 2, 3) if n != scene.count)  # noqa: E731
        changes["count"] = (("edit_times", "sound_again_times"), new_count)
        changes["pitch"] = (("edit_pitch",), lambda: m.pick(p for p in PITCHES if p != scene.pitch))
    name = m.pick(changes) if len(changes) < 3 or m.chance(0.7) else "colour"
    keys, value = changes[name]
    new = scene.but(**{name: value()})
    return m.ask(*keys, scene=new), new, [n for n in scene.asked() if n != name]


def _edit(kind: str) -> Task:
    def task(m: Maker) -> Talk:
        """A medium with one thing about it changed."""
        shown = m.scene(kind)
        if kind == "audio" and (shown.thing not in COUNTED or m.chance(0.25)):
            return Talk().user((kind, shown), m.ask("sound_again")).produce((kind, shown))
        asked, new, kept = edited(m, kind, shown)
        return Talk().user((kind, shown), asked).produce((kind, new), kept=kept)

    return task


def _shown_to_audio(kind: str, key: str) -> Task:
    def task(m: Maker) -> Talk:
        """The sound of what a medium shows, once or so many times."""
        shown = m.scene(kind)
        new = Scene(shown.thing)
        if shown.thing in COUNTED and m.chance(0.4):
            new = new.but(count=m.pick((1, 2, 3)))
            asked = m.ask("image_to_sound_times", scene=new)
        else:
            asked = m.ask(key)
        return Talk().user((kind, shown), asked).produce(("audio", new))

    return task


def image_to_video(m: Maker) -> Talk:
    """What a picture shows, filmed with a motion that is asked for, or as it usually moves."""
    shown = m.scene("image")
    new = Scene(shown.thing, shown.colour)
    if m.chance(0.35):
        return Talk().user(("image", shown), m.ask("image_to_clip")).produce(("video", new))
    new = new.but(motion=m.motion_for(shown.thing))
    asked = m.ask("image_to_clip_moving", scene=new)
    return Talk().user(("image", shown), asked).produce(("video", new))


def _heard_to(kind: str, plain: str, described: str) -> Task:
    def task(m: Maker) -> Talk:
        """What is heard, drawn or filmed: as it is asked for, or as it usually looks."""
        heard = m.sound_of(m.pick(THINGS))
        new = Scene(heard.thing)
        if m.chance(0.35):
            return Talk().user(("audio", heard), m.ask(plain)).produce((kind, new))
        new = new.but(colour=m.colour_for(heard.thing))
        if kind == "video":
            new = new.but(motion=m.motion_for(heard.thing))
        return Talk().user(("audio", heard), m.ask(described, scene=new)).produce((kind, new))

    return task


def video_to_image(m: Maker) -> Talk:
    """The thing of a film as a picture."""
    shown = m.scene("video")
    new = Scene(shown.thing, shown.colour)
    return Talk().user(("video", shown), m.ask("clip_to_picture")).produce(("image", new))


CELLS: dict[str, Task] = {
    "text->text": riddle,
    "text->image": _request("image"),
    "text->audio": _request("audio"),
    "text->video": _request("video"),
    "image->text": _description("image", "describe_image"),
    "image->image": _edit("image"),
    "image->audio": _shown_to_audio("image", "image_to_sound"),
    "image->video": image_to_video,
    "audio->text": _description("audio", "describe_audio"),
    "audio->image": _heard_to("image", "sound_to_picture", "sound_to_picture_colour"),
    "audio->audio": _edit("audio"),
    "audio->video": _heard_to("video", "sound_to_clip", "sound_to_clip_colour_moving"),
    "video->text": _description("video", "describe_video", "describe_video", "what_happens"),
    "video->image": video_to_image,
    "video->audio": _shown_to_audio("video", "clip_to_sound"),
    "video->video": _edit("video"),
}
