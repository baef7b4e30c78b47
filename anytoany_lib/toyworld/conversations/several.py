"""Several media at once: asked for in words or of something that is shown, and mixed from two that are shown."""

from __future__ import annotations

from anytoany_lib.toyworld.conversations.cells import Task
from anytoany_lib.toyworld.conversations.talks import Maker, Talk
from anytoany_lib.toyworld.scenes import HELD_OUT_PAIRS, THINGS, Scene

_ASKED = {
    "image_and_sound": ("image", "audio"),
    "sound_and_image": ("audio", "image"),
    "image_and_clip": ("image", "video"),
    "clip_and_sound": ("video", "audio"),
    "two_images": ("image", "image"),
    "two_sounds": ("audio", "audio"),
    "two_clips": ("video", "video"),
    "three_sounds": ("audio", "audio", "audio"),
    "three_images": ("image", "image", "image"),
    "image_sound_clip": ("image", "audio", "video"),
    "clip_image_sound": ("video", "image", "audio"),
}
_TWO = tuple(key for key, kinds in _ASKED.items() if len(kinds) == 2)
_THREE = tuple(key for key, kinds in _ASKED.items() if len(kinds) == 3)


def _outputs(keys: tuple[str, ...]) -> Task:
    def task(m: Maker) -> Talk:
        """Several media asked for in words."""
        key = m.pick(keys)
        text, media = m.wish(_ASKED[key], key)
        return Talk().user(text).produce(*media)

    return task


def shown_to_two(m: Maker) -> Talk:
    """A picture as sound and clip, or a clip as picture and sound."""
    if m.chance(0.5):
        shown = m.scene("image")
        made = [("audio", Scene(shown.thing)), ("video", Scene(shown.thing, shown.colour))]
        return Talk().user(("image", shown), m.ask("shown_sound_and_clip")).produce(*made)
    shown = m.scene("video")
    made = [("image", Scene(shown.thing, shown.colour)), ("audio", Scene(shown.thing))]
    return Talk().user(("video", shown), m.ask("shown_picture_and_sound")).produce(*made)


def _coloured(m: Maker, thing: str) -> tuple[str, Scene]:
    """(a colour for a thing, a picture of another thing in that colour)."""
    colour = m.colour_for(thing)
    others = [t for t in THINGS if t != thing and (t, colour) not in HELD_OUT_PAIRS]
    return colour, Scene(m.pick(others), colour)


def mix(m: Maker) -> Talk:
    """The thing of one picture in the colour of another."""
    colour_first = m.chance(0.5)
    asked = m.ask("mix_first_colour" if colour_first else "mix_second_colour")
    return mixed(m, colour_first, asked)


def mixed(m: Maker, colour_first: bool, asked: str) -> Talk:
    """The thing of one picture in the colour of another, which comes first or second, asked in these words."""
    thing = m.scene("image")
    colour, palette = _coloured(m, thing.thing)
    shown = [("image", palette), ("image", thing)]
    if not colour_first:
        shown.reverse()
    return Talk().user(*shown, asked).produce(("image", Scene(thing.thing, colour)))


def draw_mixed(m: Maker) -> Talk:
    """The thing of a sound in the colour of a picture."""
    return heard_in_colour(m, m.ask("hear_in_colour_of"))


def heard_in_colour(m: Maker, asked: str) -> Talk:
    """The thing of a sound in the colour of a picture, asked in these words."""
    heard = m.sound_of(m.pick(THINGS))
    colour, palette = _coloured(m, heard.thing)
    shown = [("audio", heard), ("image", palette)]
    if m.chance(0.4):
        shown.reverse()
    return Talk().user(*shown, asked).produce(("image", Scene(heard.thing, colour)))


SEVERAL: dict[str, Task] = {
    "two outputs": _outputs(_TWO),
    "three outputs": _outputs(_THREE),
    "two outputs of what is shown": shown_to_two,
    "mixed pictures": mix,
    "mixed request": draw_mixed,
}
