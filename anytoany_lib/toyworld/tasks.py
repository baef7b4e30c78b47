"""Conversations about the toy world: every direction of the any-to-any matrix, and what goes beyond single turns.

A task is a function `(Maker) -> Row content`: it picks scenes, words the request with the split's phrasings, and gives
the reply with the caption each generated medium has to be told. `expect` lists, for each part of the last reply, its
kind and the attributes that a judge should find in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anytoany_lib.toyworld.language import DOES, TIMES, caption, moving, times
from anytoany_lib.toyworld.scenes import HELD_OUT_PAIRS, THINGS, Scene
from anytoany_lib.toyworld.sounds import COUNTED
from anytoany_lib.toyworld.talks import Maker, Talk, phrases

_MAKE = {"image": "draw", "audio": "play", "video": "film"}


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _heard(m: Maker, thing: str) -> tuple[str, Scene]:
    """A sound of the thing, with a count if it is one that calls out."""
    count = m.pick(TIMES) if thing in COUNTED else None
    return "audio", Scene(thing, count=count, pitch=m.pick(("low", "high")) if count else None)


def riddle(m: Maker) -> Talk:
    """A fact about a thing, in words: which one is it?"""
    thing = m.pick(THINGS)
    asked = m.said("riddle", fact=m.pick(phrases()["facts"][thing]))
    return Talk().user(asked).answer(f"It is a {thing}.", thing=thing)


def _request(kind: str) -> Callable[[Maker], Talk]:
    def task(m: Maker) -> Talk:
        """A medium asked for in words."""
        scene = m.scene(kind)
        if kind == "audio" and m.rng.random() < 0.5:
            scene = scene.but(count=None, pitch=None)
        slot = {"image": "image", "audio": "sound", "video": "film"}[kind]
        return (
            Talk().user(m.asked(_MAKE[kind], **{slot: caption(kind, scene)})).produce((kind, scene))
        )

    return task


def _description(kind: str) -> Callable[[Maker], Talk]:
    def task(m: Maker) -> Talk:
        """A medium, described in a sentence."""
        scene = m.scene(kind)
        return (
            Talk()
            .user((kind, scene), m.said(f"describe_{kind}"))
            .answer(_sentence(caption(kind, scene)), **scene.asked())
        )

    return task


def image_question(m: Maker) -> Talk:
    """What colour a picture shows, or which thing."""
    scene = m.scene("image")
    if m.rng.random() < 0.6:
        return (
            Talk()
            .user(("image", scene), m.said("ask_colour"))
            .answer(f"It is {scene.colour}.", colour=scene.colour)
        )
    return (
        Talk()
        .user(("image", scene), m.said("ask_thing"))
        .answer(f"It is a {scene.thing}.", thing=scene.thing)
    )


def audio_question(m: Maker) -> Talk:
    """How often something is heard, how high, or what it is."""
    heard = _heard(m, m.pick(COUNTED))
    scene = heard[1]
    draw = m.rng.random()
    if draw < 0.6:
        reply = f"It {DOES[scene.thing]} {times(scene.count)}."
        return Talk().user(heard, m.said("ask_count")).answer(reply, count=scene.count)
    if draw < 0.8:
        return (
            Talk()
            .user(heard, m.said("ask_pitch"))
            .answer(f"It is {scene.pitch}.", pitch=scene.pitch)
        )
    return (
        Talk().user(heard, m.said("ask_thing")).answer(f"It is a {scene.thing}.", thing=scene.thing)
    )


def video_question(m: Maker) -> Talk:
    """How something moves, which colour it has, or what it is."""
    scene = m.scene("video")
    question = m.pick(("ask_motion", "ask_colour", "ask_thing"))
    answers: dict[str, tuple[str, dict[str, Any]]] = {
        "ask_motion": (f"It is {moving(scene.motion)}.", {"motion": scene.motion}),
        "ask_colour": (f"It is {scene.colour}.", {"colour": scene.colour}),
        "ask_thing": (f"It is a {scene.thing}.", {"thing": scene.thing}),
    }
    reply, asked = answers[question]
    return Talk().user(("video", scene), m.said(question)).answer(reply, **asked)


def image_to_image(m: Maker) -> Talk:
    """The thing of a picture in another colour."""
    seen = m.scene("image").but(size=None, place=None)
    wanted = seen.but(colour=m.colour_for(seen.thing, other_than=seen.colour))
    return (
        Talk()
        .user(("image", seen), m.asked("recolour", colour=wanted.colour))
        .produce(("image", wanted))
    )


def _shown_to_audio(kind: str) -> Callable[[Maker], Talk]:
    def task(m: Maker) -> Talk:
        """The sound of what a medium shows, once or so many times."""
        seen = m.scene(kind)
        if seen.thing in COUNTED and m.rng.random() < 0.4:
            wanted = Scene(seen.thing, count=m.pick(TIMES))
            asked = m.asked("play_shown_times", times=times(wanted.count))
        else:
            wanted, asked = Scene(seen.thing), m.asked("play_shown")
        return Talk().user((kind, seen), asked).produce(("audio", wanted))

    return task


def _shown_to_video(kind: str) -> Callable[[Maker], Talk]:
    def task(m: Maker) -> Talk:
        """What a medium shows, filmed with a motion that is asked for."""
        seen = m.scene(kind)
        wanted = Scene(seen.thing, seen.colour, motion=m.motion_for(seen.thing, seen.motion))
        return (
            Talk()
            .user((kind, seen), m.asked("film_shown", moving=moving(wanted.motion)))
            .produce(("video", wanted))
        )

    return task


def audio_to_image(m: Maker) -> Talk:
    """What is heard, drawn in a colour that is asked for."""
    heard = _heard(m, m.pick(THINGS))
    wanted = Scene(heard[1].thing, m.colour_for(heard[1].thing))
    return (
        Talk().user(heard, m.asked("draw_heard", colour=wanted.colour)).produce(("image", wanted))
    )


def audio_to_audio(m: Maker) -> Talk:
    """The same sound again, or so many times."""
    kind, scene = _heard(m, m.pick(THINGS))
    if scene.count:
        wanted = Scene(scene.thing, count=m.pick(n for n in TIMES if n != scene.count))
        return (
            Talk()
            .user((kind, scene), m.asked("replay", times=times(wanted.count)))
            .produce((kind, wanted))
        )
    return Talk().user((kind, scene), m.asked("echo")).produce((kind, Scene(scene.thing)))


def audio_to_video(m: Maker) -> Talk:
    """What is heard, filmed in a colour and with a motion that are asked for."""
    heard = _heard(m, m.pick(THINGS))
    thing = heard[1].thing
    wanted = Scene(thing, m.colour_for(thing), motion=m.motion_for(thing))
    words = {"colour": wanted.colour, "moving": moving(wanted.motion)}
    return Talk().user(heard, m.asked("film_heard", **words)).produce(("video", wanted))


def video_to_image(m: Maker) -> Talk:
    """The thing of a film as a picture."""
    seen = m.scene("video")
    return (
        Talk()
        .user(("video", seen), m.asked("redraw"))
        .produce(("image", Scene(seen.thing, seen.colour)))
    )


def match(m: Maker) -> Talk:
    """Whether a picture and a sound are of the same thing."""
    seen = m.scene("image").but(size=None, place=None)
    same = m.rng.random() < 0.5
    heard = _heard(m, seen.thing if same else m.pick(t for t in THINGS if t != seen.thing))
    if same:
        reply = f"Yes, both are a {seen.thing}."
    else:
        reply = f"No, the picture shows a {seen.thing} and the sound is a {heard[1].thing}."
    media = [("image", seen), heard]
    if m.rng.random() < 0.5:
        media.reverse()
    return Talk().user(*media, m.said("match")).answer(reply, starts="Yes" if same else "No")


def which_colour(m: Maker) -> Talk:
    """Which of two pictures shows a colour."""
    first = m.scene("image")
    second = m.scene("image")
    second = second.but(colour=m.colour_for(second.thing, other_than=first.colour))
    number = int(m.rng.integers(2))
    asked = m.said("which_colour", colour=(first, second)[number].colour)
    ordinal = ("first", "second")[number]
    return (
        Talk()
        .user(("image", first), ("image", second), asked)
        .answer(f"The {ordinal} one.", starts=f"The {ordinal}")
    )


def draw_mixed(m: Maker) -> Talk:
    """The thing of a sound in the colour of a picture."""
    heard = _heard(m, m.pick(THINGS))
    seen = m.scene("image").but(size=None, place=None)
    wanted = Scene(heard[1].thing, m.colour_for(heard[1].thing))
    seen = seen.but(
        thing=m.pick(t for t in THINGS if (t, wanted.colour) not in HELD_OUT_PAIRS),
        colour=wanted.colour,
    )
    return Talk().user(heard, ("image", seen), m.said("draw_mixed")).produce(("image", wanted))


def two_outputs(m: Maker) -> Talk:
    """A picture, a film and a sound of one thing, two of them at once."""
    seen = m.scene("image").but(size=None, place=None)
    shown, heard = caption("image", seen), ("audio", Scene(seen.thing))
    filmed = seen.but(motion=m.motion_for(seen.thing))
    task = m.pick(("draw_and_play", "draw_and_film", "film_and_play"))
    if task == "draw_and_play":
        return Talk().user(m.asked(task, image=shown)).produce(("image", seen), heard)
    if task == "draw_and_film":
        asked = m.asked(task, image=shown, moving=moving(filmed.motion))
        return Talk().user(asked).produce(("image", seen), ("video", filmed))
    return (
        Talk().user(m.asked(task, film=caption("video", filmed))).produce(("video", filmed), heard)
    )


def follow_up(m: Maker) -> Talk:
    """Two to three turns, each about what the turn before showed or made."""
    scene = m.scene("image").but(size=None, place=None)
    talk = _request_of(m, m.pick(("image", "audio", "video")), scene)
    for _ in range(int(m.rng.integers(1, 3))):
        then = m.pick(("then_colour", "then_film", "then_play", "then_draw", "ask_colour"))
        if then == "ask_colour":
            talk = talk.user(m.said(then)).answer(f"It is {scene.colour}.", colour=scene.colour)
        elif then == "then_colour":
            scene = scene.but(colour=m.colour_for(scene.thing, other_than=scene.colour))
            talk = talk.user(m.said(then, colour=scene.colour)).produce(("image", scene))
        elif then == "then_film":
            filmed = scene.but(motion=m.motion_for(scene.thing))
            talk = talk.user(m.said(then, moving=moving(filmed.motion))).produce(("video", filmed))
        elif then == "then_play":
            talk = talk.user(m.said(then)).produce(("audio", Scene(scene.thing)))
        else:
            talk = talk.user(m.said(then)).produce(("image", scene))
    return talk


def _request_of(m: Maker, kind: str, scene: Scene) -> Talk:
    """A first turn that fixes thing and colour: asked for in words, or shown by the user."""
    if kind == "image" and m.rng.random() < 0.5:
        return Talk().user(m.asked("draw", image=caption("image", scene))).produce(("image", scene))
    if kind == "video":
        filmed = scene.but(motion=m.motion_for(scene.thing))
        return (
            Talk().user(m.asked("film", film=caption("video", filmed))).produce(("video", filmed))
        )
    asked = m.said("describe_image")
    return (
        Talk()
        .user(("image", scene), asked)
        .answer(_sentence(caption("image", scene)), **scene.asked())
    )


def change_of_subject(m: Maker) -> Talk:
    """Two talks in one conversation that have nothing to do with each other."""
    before, now = (m.pick((CELLS | _SINGLE).values())(m) for _ in range(2))
    return Talk(before.messages + now.messages, now.expect)


# The sixteen cells of the matrix, then what goes beyond it. The number is a task's share of the training rows.
CELLS: dict[str, Callable[[Maker], Talk]] = {
    "text->text": riddle,
    "text->image": _request("image"),
    "text->audio": _request("audio"),
    "text->video": _request("video"),
    "image->text": _description("image"),
    "image->image": image_to_image,
    "image->audio": _shown_to_audio("image"),
    "image->video": _shown_to_video("image"),
    "audio->text": _description("audio"),
    "audio->image": audio_to_image,
    "audio->audio": audio_to_audio,
    "audio->video": audio_to_video,
    "video->text": _description("video"),
    "video->image": video_to_image,
    "video->audio": _shown_to_audio("video"),
    "video->video": _shown_to_video("video"),
}
_SINGLE: dict[str, Callable[[Maker], Talk]] = {
    "image question": image_question,
    "audio question": audio_question,
    "video question": video_question,
    "two pictures": which_colour,
    "picture and sound": match,
    "mixed request": draw_mixed,
    "two outputs": two_outputs,
}
BEYOND = _SINGLE | {"follow-up": follow_up, "change of subject": change_of_subject}
SHARES = dict.fromkeys((*CELLS, *BEYOND), 1.0) | {
    "text->text": 1.5,
    "text->image": 2.0,
    "text->audio": 2.0,
    "text->video": 2.0,
    "image->text": 2.0,
    "audio->text": 1.5,
    "video->text": 2.0,
    "audio->audio": 1.5,
    "two pictures": 1.5,
    "picture and sound": 1.5,
    "two outputs": 2.5,
    "follow-up": 3.0,
    "change of subject": 9.0,
}
