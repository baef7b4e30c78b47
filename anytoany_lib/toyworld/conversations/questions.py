"""Questions about what is shown, answered in words: what, where, how often, yes or no, and which of several.

An answer that compares says first what it compares: "A red bell and a blue cat: the second one." A small model finds the
second half of that where it would guess at "The second one." alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from anytoany_lib.toyworld.conversations.cells import Task
from anytoany_lib.toyworld.conversations.talks import Maker, Talk
from anytoany_lib.toyworld.language import DOES, DOING, PLACED, article, caption, moving, times
from anytoany_lib.toyworld.pictures import COLOURS
from anytoany_lib.toyworld.scenes import THINGS, Scene
from anytoany_lib.toyworld.sounds import COUNTED

ORDINALS = ("first", "second", "third")
_SIZED = {"small": "small", "big": "big", None: "neither small nor big"}


def answers(kind: str, scene: Scene) -> dict[str, tuple[str, dict[str, Any]]]:
    """{question about one medium: (its answer, the attributes that it has to name)} of all that can be asked of it."""
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "name_thing": (f"It is {article(scene.thing)}.", {"thing": scene.thing})
    }
    if kind != "audio":
        found["which_colour"] = (f"It is {scene.colour}.", {"colour": scene.colour})
    if kind == "image":
        placed = {"place": scene.place} if scene.place else {}
        found["where_is_it"] = (f"It is {_worded(scene, 'place')}.", placed)
        sized = {"size": scene.size} if scene.size else {}
        found["how_big"] = (f"It is {_worded(scene, 'size')}.", sized)
        found["how_many_things"] = (f"One: {article(_words(scene))}.", {"thing": scene.thing})
    if kind == "video":
        found["how_does_it_move"] = (f"It is {moving(scene.motion)}.", {"motion": scene.motion})
    if kind == "audio":
        doing = f"It is {article(scene.thing)} {DOING[scene.thing]}."
        found["what_sound_is_it"] = (doing, {"thing": scene.thing})
        if scene.count:
            often = f"It {DOES[scene.thing]} {times(scene.count)}."
            found["how_often"] = (often, {"count": scene.count})
        if scene.pitch:
            found["high_or_low"] = (f"It is {scene.pitch}.", {"pitch": scene.pitch})
    return found


def about(m: Maker, kind: str, scene: Scene) -> tuple[str, str, dict[str, Any]]:
    """A question about one medium: (the question, the answer, the attributes that it has to name)."""
    choices = answers(kind, scene)
    harder = [key for key in choices if key in ("how_does_it_move", "how_often")]
    key = m.pick([*choices, *harder])
    return m.ask(key), *choices[key]


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
    asked = m.ask(key, scene=scene if true else scene.but(**other[key]()))
    attribute = {"is_moving": "motion", "is_times": "count"}.get(key, key.removeprefix("is_"))
    return whether(Talk().user((kind, scene), asked), scene, attribute, true)


def whether(talk: Talk, scene: Scene, attribute: str, true: bool) -> Talk:
    """The answer yes or no, behind what the medium shows of the attribute that was asked about."""
    verb = DOES[scene.thing] if attribute == "count" else "is"
    word = "yes" if true else "no"
    return talk.answer(f"It {verb} {_worded(scene, attribute)}: {word}.", says=word)


def _worded(scene: Scene, attribute: str) -> str:
    """What a scene shows of an attribute, in words."""
    value: Any = getattr(scene, attribute)
    if attribute == "place":
        return PLACED[value] if value else "in the middle"
    if attribute == "size":
        return _SIZED[value]
    words: dict[str, Callable[[Any], str]] = {"thing": article, "motion": moving, "count": times}
    return words.get(attribute, str)(value)


def several(m: Maker, kind: str, count: int, by: str) -> list[Scene]:
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
    scenes = several(m, kind, 3 if m.chance(0.15) and m.split != "test" else 2, by)
    number = int(m.rng.integers(len(scenes)))
    asked = m.ask(key, scene=scenes[number])
    return the_one(Talk().user(*((kind, scene) for scene in scenes), asked), scenes, by, number)


def the_one(talk: Talk, scenes: Sequence[Scene], by: str, number: int) -> Talk:
    """The answer which of several it is, behind what each of them shows of the attribute."""
    values = [_worded(scene, by) for scene in scenes]
    reply = f"{_listed(values)}: the {ORDINALS[number]} one."
    return talk.answer(sentence_start(reply), says=ORDINALS[number])


def which_more_often(m: Maker) -> Talk:
    """Which of two sounds comes more often."""
    scenes = several(m, "audio", 2, "count")
    talk = Talk().user(*(("audio", scene) for scene in scenes), m.ask("which_more_often"))
    return more_often(talk, scenes)


def more_often(talk: Talk, scenes: Sequence[Scene]) -> Talk:
    """The answer which of two sounds comes more often."""
    return the_one(talk, scenes, "count", int((scenes[1].count or 0) > (scenes[0].count or 0)))


def sentence_start(text: str) -> str:
    """The text with a capital letter."""
    return text[0].upper() + text[1:]


def _listed(values: list[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}"


def same_or_different(m: Maker) -> Talk:
    """Whether two pictures show the same thing, or the same colour."""
    key, by = m.pick((("same_or_different", "thing"), ("same_colour", "colour")))
    return same(m, m.pick(("image", "video")), by, m.ask(key))


def same(m: Maker, kind: str, by: str, asked: str) -> Talk:
    """Whether two media show the same thing or colour, asked in these words."""
    first, alike = m.scene(kind), m.chance(0.5)
    second = m.scene(kind)
    while (getattr(second, by) == getattr(first, by)) != alike:
        second = m.scene(kind)
    shown = [_worded(scene, by) for scene in (first, second)]
    verdict = f"the same {by}" if alike else f"different {by}s"
    reply = f"{_listed(shown)}: {'yes' if alike else 'no'}, {verdict}."
    talk = Talk().user((kind, first), (kind, second), asked)
    return talk.answer(sentence_start(reply), says="same" if alike else "different")


def belong_together(m: Maker) -> Talk:
    """Whether a picture and a sound are of the same thing."""
    return belong(m, m.ask("belong_together"))


def belong(m: Maker, asked: str) -> Talk:
    """Whether a picture and a sound are of the same thing, asked in these words."""
    shown = m.scene("image")
    alike = m.chance(0.5)
    heard = m.sound_of(shown.thing if alike else m.pick(t for t in THINGS if t != shown.thing))
    word = "yes" if alike else "no"
    media = [("image", shown), ("audio", heard)]
    names = [article(shown.thing), f"the sound of {article(heard.thing)}"]
    if m.chance(0.5):
        media.reverse()
        names.reverse()
    reply = f"{_listed(names)}: {word}, they {'' if alike else 'do not '}belong together."
    return Talk().user(*media, asked).answer(sentence_start(reply), says=word)


def second_one(m: Maker) -> Talk:
    """What the second of two media is."""
    kinds = (("image", "image"), ("audio", "audio"), ("video", "video"), ("image", "audio"))
    return second(m, m.pick(kinds), m.ask("second_one"))


def second(m: Maker, kinds: Sequence[str], asked: str) -> Talk:
    """What the second of media of these kinds is, asked in these words."""
    shown = [(kind, m.scene(kind)) for kind in kinds]
    scene = shown[1][1]
    return Talk().user(*shown, asked).answer(f"It is {article(_words(scene))}.", thing=scene.thing)


def compare(m: Maker) -> Talk:
    """What two pictures or clips show, beside each other."""
    kind = m.pick(("image", "video"))
    first, second = several(m, kind, 2, "thing")
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
