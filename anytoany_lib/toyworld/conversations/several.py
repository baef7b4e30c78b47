"""Several media at once: asked for in words or of something that is shown, and mixed from two that are shown."""

from __future__ import annotations

import re

from anytoany_lib.toyworld.conversations.cells import Task
from anytoany_lib.toyworld.conversations.talks import Maker, Talk
from anytoany_lib.toyworld.pictures import COLOURS
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
MIXES = ("mix_first_colour", "mix_second_colour")
_OTHER = {"first": "second", "number one": "number two", "image one": "image two"}
_OTHER |= {other: one for one, other in _OTHER.items()}
_ORDINAL = re.compile(rf"\b({'|'.join(_OTHER)})\b")
_OTHER_ORDINAL = re.compile(
    r"\d|\b(last|former|latter|other|firsts|seconds|twos|number ones|A|B|First|Second|Number|Image)\b"
)


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
    wanted, other = MIXES if colour_first else MIXES[::-1]
    if m.split == "test" or m.chance(0.5):
        return mixed(m, colour_first, m.ask(wanted))
    # Most authors worded one of the two alone.
    return mixed(m, colour_first, m.typed(mirrored(m.line(other, fits=has_mirror))))


def has_mirror(line: str) -> bool:
    """Whether all that a wording calls the first and the second can be exchanged."""
    return bool(_ORDINAL.search(line)) and not _OTHER_ORDINAL.search(line)


def mirrored(line: str) -> str:
    """The wording with first and second exchanged."""
    return _ORDINAL.sub(lambda found: _OTHER[found[1]], line)


def mixed(m: Maker, colour_first: bool, asked: str) -> Talk:
    """The thing of one picture in the colour of another, which comes first or second, asked in these words.

    The pictures differ in colour. The reply says first which colour each of them has: looked at and chosen in one step,
    it was the right one as often as by chance.
    """
    thing = m.scene("image")
    colour, palette = _coloured(m, thing.thing)
    own = [c for c in COLOURS if c != colour and (thing.thing, c) not in HELD_OUT_PAIRS]
    shown = [palette, thing.but(colour=m.pick(own))]
    if not colour_first:
        shown.reverse()
    colours = f"The first is {shown[0].colour}, the second is {shown[1].colour}."
    talk = Talk().user(*(("image", scene) for scene in shown), asked)
    return talk.produce(("image", Scene(thing.thing, colour)), before=colours)


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
