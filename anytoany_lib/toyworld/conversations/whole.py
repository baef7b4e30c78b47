"""Whole requests, as authors wrote them without blanks, with what each of them wants.

In training their things and colours are exchanged for others half of the time, so that what is learnt is how people ask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from anytoany_lib.toyworld.conversations import synonyms
from anytoany_lib.toyworld.conversations.authors import Marked, Request, kit, whole_requests
from anytoany_lib.toyworld.conversations.cells import CELLS, Task, sentence
from anytoany_lib.toyworld.conversations.questions import (
    answers,
    belong,
    more_often,
    same,
    second,
    several,
    the_one,
    whether,
)
from anytoany_lib.toyworld.conversations.several import heard_in_colour, mixed
from anytoany_lib.toyworld.conversations.talks import Maker, Talk, fit
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.scenes import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, THINGS, Scene
from anytoany_lib.toyworld.sounds import COUNTED

# Which requests a task has.
_OF_TASK: dict[str, Callable[[Request], bool]] = {
    "whole request": lambda request: bool(request.reply) and not request.shown,
    "whole conversion": lambda request: bool(request.reply and request.shown),
    "whole question": lambda request: bool(request.ask) and len(request.shown) == 1,
    "whole comparison": lambda request: len(request.shown) == 2,
    "whole remark": lambda request: bool(request.remark),
}
_MAKING = [task for cell, task in CELLS.items() if not cell.endswith("->text")]
_CALLED = {"image": "picture", "audio": "sound", "video": "clip"}


@cache
def requests_of(task: str, split: str) -> dict[str, list[Request]]:
    """{author: whole requests for the task} of a split's authors that have any."""
    found = {
        author: [request for request in requests if _OF_TASK[task](request)]
        for author, requests in whole_requests(split).items()
    }
    return {author: own for author, own in found.items() if own}


def _chosen(m: Maker, task: str) -> Request:
    by_author = requests_of(task, m.split)
    return m.pick(by_author[m.author if m.author in by_author else m.pick(by_author)])


def _described(request: Request) -> dict[int, dict[str, Any]]:
    """{number of a description: what its marked words say}."""
    found: dict[int, dict[str, Any]] = {number: {} for _, number in request.reply}
    for part in request.parts:
        if isinstance(part, Marked):
            found.setdefault(part.number, {})[part.attribute] = part.value
    return found


def _held_out(said: dict[str, Any], thing: str | None = None) -> bool:
    name = said.get("thing", thing)
    return (name, said.get("colour")) in HELD_OUT_PAIRS or (
        name,
        said.get("motion"),
    ) in HELD_OUT_MOTIONS


def _exchange(m: Maker, said: dict[str, Any]) -> dict[str, Any]:
    """The same description of another thing, in another colour."""
    new = dict(said)
    if "thing" in said:
        fitting = [
            t
            for t in (COUNTED if said.keys() & {"count", "pitch"} else THINGS)
            if (t, said.get("motion")) not in HELD_OUT_MOTIONS
        ]
        new["thing"] = m.pick(fitting)
    if "colour" in said:
        new["colour"] = m.colour_for(new.get("thing", ""))
    return new


def _text(
    m: Maker, request: Request, old: dict[int, dict[str, Any]], new: dict[int, dict[str, Any]]
) -> str:
    """The request with the words for what was exchanged."""
    words = []
    for part in request.parts:
        if isinstance(part, str):
            words.append(part)
        elif new[part.number].get(part.attribute) == old[part.number].get(part.attribute):
            words.append(part.words)
        else:
            scene = Scene(new[part.number].get("thing", ""), new[part.number].get("colour"))
            if part.attribute == "thing":
                words.append(synonyms.thing(scene, m.rng))
            else:
                words.append(synonyms.colour(scene, m.rng))
    return "".join(words)


def asked(m: Maker) -> Talk:
    """Media asked for in words alone."""
    request = _chosen(m, "whole request")
    said = _described(request)
    new = said
    if m.split != "test" and (m.chance(0.5) or any(map(_held_out, said.values()))):
        new = {number: _exchange(m, description) for number, description in said.items()}
    media = [(kind, fit(kind, Scene(**{"thing": "", **new[n]}))) for kind, n in request.reply]
    return Talk().user(m.typed(_text(m, request, said, new))).produce(*media)


def converted(m: Maker) -> Talk:
    """A medium that is shown, turned into others."""
    request = _chosen(m, "whole conversion")
    said = _described(request)
    shown_kind = request.shown[0]
    while True:
        shown = m.scene(shown_kind)
        if any({"count", "pitch"} & description.keys() for description in said.values()):
            shown = m.sound_of(m.pick(COUNTED)) if shown_kind == "audio" else shown
            if shown.thing not in COUNTED:
                continue
        wanted = {number: shown.but(**description) for number, description in said.items()}
        if m.split == "test" or not any(_held_out(s.asked()) for s in wanted.values()):
            break
    media, kept = [], set()
    for kind, number in request.reply:
        scene = fit(kind, wanted[number])
        if kind != shown_kind:  # place, size, motion and count are of the other kind of medium
            names = said[number].keys() | {"thing", "colour"}
            scene = Scene(**{n: v for n, v in scene.asked().items() if n in names})  # type: ignore[arg-type]
        kept |= scene.asked().keys() - said[number].keys()
        media.append((kind, scene))
    talk = Talk().user((shown_kind, shown), m.typed(request.text))
    return talk.produce(
        *media, kept=kept if len(request.reply) == 1 and media[0][0] == shown_kind else ()
    )


# What an author calls a question, and `answers` does.
_QUESTIONS = {
    "thing": "name_thing",
    "colour": "which_colour",
    "place": "where_is_it",
    "size": "how_big",
    "how many": "how_many_things",
    "motion": "how_does_it_move",
    "count": "how_often",
    "pitch": "high_or_low",
}


def _shown_for(m: Maker, kind: str, attribute: str) -> Scene:
    """A scene that has the attribute."""
    if kind == "audio" and attribute in ("count", "pitch"):
        return m.sound_of(m.pick(COUNTED))
    while True:
        scene = m.scene(kind)
        if getattr(scene, attribute, "") is not None:
            return scene


def questioned(m: Maker) -> Talk:
    """A question about one medium."""
    request = _chosen(m, "whole question")
    (kind,), text = request.shown, m.typed(request.text)
    if request.ask == "is":
        return _whether(m, kind, request, text)
    scene = _shown_for(m, kind, request.ask)
    talk = Talk().user((kind, scene), text)
    if request.ask == "describe":
        return talk.answer(sentence(caption(kind, scene)), **scene.asked())
    reply, names = answers(kind, scene)[_QUESTIONS[request.ask]]
    return talk.answer(reply, **names)


def _whether(m: Maker, kind: str, request: Request, text: str) -> Talk:
    """Whether a medium is as the marked word says: half of the time it is."""
    ((attribute, value),) = _described(request)[1].items()
    true = m.chance(0.5)
    while True:
        scene = _shown_for(m, kind, attribute)
        if true and m.chance(0.9):
            scene = fit(kind, scene.but(**{attribute: value}))
        fits = m.split == "test" or not _held_out(scene.asked())
        if fits and (getattr(scene, attribute) == value) == true:
            return whether(Talk().user((kind, scene), text), scene, attribute, true)


def compared(m: Maker) -> Talk:
    """A question about two media, or a wish to mix them."""
    request = _chosen(m, "whole comparison")
    kind, text = request.shown[0], m.typed(request.text)
    if request.mix == "heard in colour":
        return heard_in_colour(m, text)
    if request.mix:
        return mixed(m, request.mix == "colour of first", text)
    if request.ask == "which":
        return _which(m, kind, request, text)
    if request.ask == "more often":
        scenes = several(m, kind, 2, "count")
        return more_often(Talk().user(*((kind, scene) for scene in scenes), text), scenes)
    if request.ask == "belong":
        return belong(m, text)
    if request.ask == "second":
        return second(m, request.shown, text)
    return same(m, kind, request.ask.removeprefix("same "), text)


def _which(m: Maker, kind: str, request: Request, text: str) -> Talk:
    """Which of two media is as the marked word says."""
    ((attribute, value),) = _described(request)[1].items()
    while True:
        scenes = several(m, kind, 2, attribute)
        values = [getattr(scene, attribute) for scene in scenes]
        if value in values:
            talk = Talk().user(*((kind, scene) for scene in scenes), text)
            return the_one(talk, scenes, attribute, values.index(value))


def remarked(m: Maker) -> Talk:
    """A remark about a medium that was made before, which wants no other."""
    request = _chosen(m, "whole remark")
    talk = m.pick(_MAKING)(m)
    made = talk.expect[-1]
    reply = m.pick(kit()["replies"][request.remark])
    words = {"medium": _CALLED[made["kind"]], "thing": made["scene"]["thing"]}
    return talk.user(m.typed(request.text)).answer(reply.format(**words))


WHOLE: dict[str, Task] = {
    "whole request": asked,
    "whole conversion": converted,
    "whole question": questioned,
    "whole comparison": compared,
    "whole remark": remarked,
}
