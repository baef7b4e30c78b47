"""Questions about what is shown, answered in words: what, where, how often, yes or no, and which of several.

An answer that compares says first what it compares: "A red bell and a blue cat: the second one." A small model finds the
second half of that where it would guess at "The second one." alone.
"""

from __future__ import annotations

from typing import Any

from anytoany_lib.toyworld.conversations.cells import Task
from anytoany_lib.toyworld.conversations.talks import Maker, Talk
from anytoany_lib.toyworld.language import DOES, DOING, PLACED, article, caption, moving, times
from anytoany_lib.toyworld.pictures import COLOURS
from anytoany_lib.toyworld.scenes import THINGS, Scene
from anytoany_lib.toyworld.sounds import COUNTED

ORDINALS = ("first", "second", "third")
_SIZED = {"small": "small", "big": "big", None: "neither small nor big"}


def about(m: Maker, kind: str, scene: Scene) -> tuple[str, str, dict[str, Any]]:
    """A question about one medium: (the question, the answer, the attributes that it has to name)."""
    choices: list[tuple[str, str, dict[str, Any]]] = [
        ("name_thing", f"It is {article(scene.thing)}.", {"thing": scene.thing})
    ]
    if kind != "audio":
        choices.append(("which_colour", f"It is {scene.colour}.", {"colour": scene.colour}))
    if kind == "image":
        where = PLACED[scene.place] if scene.place else "in the middle"
        placed = {"place": scene.place} if scene.place else {}
        choices.append(("where_is_it", f"It is {where}.", placed))
        sized = {"size": scene.size} if scene.size else {}
        choices.append(("how_big", f"It is {_SIZED[scene.size]}.", sized))
        choices.append(
            ("how_many_things", f"One: {article(_words(scene))}.", {"thing": scene.thing})
        )
    if kind == "video":
        reply = f"It is {moving(scene.motion)}."
        choices += [("how_does_it_move", reply, {"motion": scene.motion})] * 2
    if kind == "audio":
        doing = f"It is {article(scene.thing)} {DOING[scene.thing]}."
        choices.append(("what_sound_is_it", doing, {"thing": scene.thing}))
        if scene.count:
            reply = f"It {DOES[scene.thing]} {times(scene.count)}."
            choices += [("how_often", reply, {"count": scene.count})] * 2
        if scene.pitch:
            choices.append(("high_or_low", f"It is {scene.pitch}.", {"pitch": scene.pitch}))
    key, reply, asked = m.pick(choices)
    return m.ask(key), reply, asked


def _words(scene: Scene) -> str:
    return f"{scene.colour} {scene.thing}" if scene.colour else scene.thing


def _question(kind: str) -> Task:
    def task(m: Maker) -> Talk:
        """A question about one medium."""
        scene = m.sound_of(m.pick(COUNTED)) if kind == "audio" and m.chance(0.7) else m.scene(kind)
        asked, reply, names = about(m, kind, scene)
        return Talk().user((kind, scene), asked).answer(reply, **names)

    return task


def yes_or_no(m: Maker) -> Talk:
    """Whether a medium shows what is asked: the answer says what it shows, and so yes or no."""
    kind = m.pick(("image", "audio", "video"))
    scene = m.sound_of(m.pick(COUNTED)) if kind == "audio" else m.scene(kind)
    true = m.chance(0.5)
    key = m.pick(
        {
            "image": ("is_colour", "is_thing"),
            "audio": ("is_times", "is_thing"),
            "video": ("is_colour", "is_thing", "is_moving"),
        }[kind]
    )
    other: dict[str, Any] = {
        "is_colour": lambda: {"colour": m.pick(c for c in COLOURS if c != scene.colour)},
        "is_thing": lambda: {"thing": m.pick(t for t in THINGS if t != scene.thing)},
        "is_moving": lambda: {"motion": m.motion_for(scene.thing, other_than=scene.motion)},
        "is_times": lambda: {"count": m.pick(n for n in (1, 2, 3) if n != scene.count)},
    }
    is_so = {
        "is_colour": f"It is {scene.colour}",
        "is_thing": f"It is {article(scene.thing)}",
        "is_moving": f"It is {moving(scene.motion)}",
        "is_times": f"It {DOES[scene.thing]} {times(scene.count)}",
    }[key]
    asked = m.ask(key, scene=scene if true else scene.but(**other[key]()))
    word = "yes" if true else "no"
    return Talk().user((kind, scene), asked).answer(f"{is_so}: {word}.", says=word)


def _several(m: Maker, kind: str, count: int, by: str) -> list[Scene]:
    """Scenes that differ in one attribute, each from every other."""
    while True:
        scenes = [
            m.sound_of(m.pick(COUNTED)) if kind == "audio" else m.scene(kind) for _ in range(count)
        ]
        if len({getattr(scene, by) for scene in scenes}) == count:
            return scenes


def which(m: Maker) -> Talk:
    """Which of two media, now and then of three, is so."""
    key, kind, by = m.pick(
        (
            ("which_is_colour", "image", "colour"),
            ("which_is_colour", "video", "colour"),
            ("which_is_thing", "image", "thing"),
            ("which_is_thing", "audio", "thing"),
            ("which_moves", "video", "motion"),
        )
    )
    scenes = _several(m, kind, 3 if m.chance(0.15) and m.split != "test" else 2, by)
    number = int(m.rng.integers(len(scenes)))
    asked = m.ask(key, scene=scenes[number])
    values = [
        moving(s.motion)
        if by == "motion"
        else article(s.thing)
        if by == "thing"
        else str(getattr(s, by))
        for s in scenes
    ]
    reply = f"{_listed(values)}: the {ORDINALS[number]} one."
    talk = Talk().user(*((kind, scene) for scene in scenes), asked)
    return talk.answer(sentence_start(reply), says=ORDINALS[number])


def which_more_often(m: Maker) -> Talk:
    """Which of two sounds comes more often."""
    scenes = _several(m, "audio", 2, "count")
    number = int((scenes[1].count or 0) > (scenes[0].count or 0))
    values = [times(scene.count) for scene in scenes]
    reply = f"{_listed(values)}: the {ORDINALS[number]} one."
    talk = Talk().user(*(("audio", scene) for scene in scenes), m.ask("which_more_often"))
    return talk.answer(sentence_start(reply), says=ORDINALS[number])


def sentence_start(text: str) -> str:
    """The text with a capital letter."""
    return text[0].upper() + text[1:]


def _listed(values: list[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}"


def same_or_different(m: Maker) -> Talk:
    """Whether two pictures show the same thing, or the same colour."""
    key, by = m.pick((("same_or_different", "thing"), ("same_colour", "colour")))
    kind = m.pick(("image", "video"))
    first, same = m.scene(kind), m.chance(0.5)
    second = m.scene(kind)
    while (getattr(second, by) == getattr(first, by)) != same:
        second = m.scene(kind)
    shown = [article(s.thing) if by == "thing" else str(s.colour) for s in (first, second)]
    verdict = f"the same {by}" if same else f"different {by}s"
    reply = f"{_listed(shown)}: {'yes' if same else 'no'}, {verdict}."
    talk = Talk().user((kind, first), (kind, second), m.ask(key))
    return talk.answer(sentence_start(reply), says="same" if same else "different")


def belong_together(m: Maker) -> Talk:
    """Whether a picture and a sound are of the same thing."""
    shown = m.scene("image")
    same = m.chance(0.5)
    heard = m.sound_of(shown.thing if same else m.pick(t for t in THINGS if t != shown.thing))
    word = "yes" if same else "no"
    media = [("image", shown), ("audio", heard)]
    names = [article(shown.thing), f"the sound of {article(heard.thing)}"]
    if m.chance(0.5):
        media.reverse()
        names.reverse()
    reply = f"{_listed(names)}: {word}, they {'' if same else 'do not '}belong together."
    talk = Talk().user(*media, m.ask("belong_together"))
    return talk.answer(sentence_start(reply), says=word)


def second_one(m: Maker) -> Talk:
    """What the second of two media is."""
    kinds = m.pick((("image", "image"), ("audio", "audio"), ("video", "video"), ("image", "audio")))
    shown = [(kind, m.scene(kind)) for kind in kinds]
    scene = shown[1][1]
    reply = f"It is {article(_words(scene))}."
    return Talk().user(*shown, m.ask("second_one")).answer(reply, thing=scene.thing)


def compare(m: Maker) -> Talk:
    """What two pictures or clips show, beside each other."""
    kind = m.pick(("image", "video"))
    first, second = _several(m, kind, 2, "thing")
    reply = f"The first is {caption(kind, first)}, the second is {caption(kind, second)}."
    return Talk().user((kind, first), (kind, second), m.ask("compare")).answer(reply)


QUESTIONS: dict[str, Task] = {
    "image question": _question("image"),
    "audio question": _question("audio"),
    "video question": _question("video"),
    "yes or no": yes_or_no,
    "which of several": which,
    "which more often": which_more_often,
    "same or different": same_or_different,
    "picture and sound": belong_together,
    "second one": second_one,
    "compare": compare,
}
