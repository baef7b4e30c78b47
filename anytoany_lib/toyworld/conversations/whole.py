"""Whole requests, as authors wrote them without blanks, with what each of them wants.

In training their things and colours are exchanged for others half of the time, so that what is learnt is how people ask.
"""

from __future__ import annotations

from typing import Any

from anytoany_lib.toyworld.conversations import synonyms
from anytoany_lib.toyworld.conversations.authors import Marked, Request, whole_requests
from anytoany_lib.toyworld.conversations.cells import Task
from anytoany_lib.toyworld.conversations.talks import Maker, Talk, fit
from anytoany_lib.toyworld.scenes import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, THINGS, Scene
from anytoany_lib.toyworld.sounds import COUNTED


def _chosen(m: Maker, shown: bool) -> Request:
    """A request of one of the split's authors that wants media, with a medium shown or without."""
    by_author = whole_requests(m.split)
    author = m.author if m.author in by_author else m.pick(by_author)
    return m.pick(r for r in by_author[author] if r.reply and bool(r.shown) == shown)


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
    request = _chosen(m, shown=False)
    said = _described(request)
    new = said
    if m.split != "test" and (m.chance(0.5) or any(map(_held_out, said.values()))):
        new = {number: _exchange(m, description) for number, description in said.items()}
    media = [(kind, fit(kind, Scene(**{"thing": "", **new[n]}))) for kind, n in request.reply]
    return Talk().user(m.typed(_text(m, request, said, new))).produce(*media)


def converted(m: Maker) -> Talk:
    """A medium that is shown, turned into others."""
    request = _chosen(m, shown=True)
    said = _described(request)
    shown_kind = str(request.shown)
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


WHOLE: dict[str, Task] = {"whole request": asked, "whole conversion": converted}
