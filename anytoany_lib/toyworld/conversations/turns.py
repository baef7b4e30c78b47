"""Conversations of several turns: edits of what was made, follow-ups, questions about what was said before."""

from __future__ import annotations

from typing import Any

from anytoany_lib.toyworld.conversations.cells import CELLS, Task, edited, sentence
from anytoany_lib.toyworld.conversations.questions import QUESTIONS, about
from anytoany_lib.toyworld.conversations.several import SEVERAL
from anytoany_lib.toyworld.conversations.talks import Maker, Talk, as_usual
from anytoany_lib.toyworld.language import DOES, article, caption, times
from anytoany_lib.toyworld.scenes import Scene

_SINGLE = CELLS | QUESTIONS | SEVERAL


def _opening(m: Maker) -> tuple[Talk, str, Scene]:
    """A first turn that fixes what is spoken of: asked for in words, or shown by the user. (talk, kind, what it shows)."""
    kind = m.pick(("image", "image", "video", "audio"))
    if m.chance(0.6):
        text, media = m.wish([kind], f"ask_{kind}")
        return Talk().user(text).produce(*media), kind, as_usual(*media[0])
    scene = m.scene(kind)
    talk = Talk().user((kind, scene), m.ask(f"describe_{kind}"))
    return talk.answer(sentence(caption(kind, scene)), **scene.asked()), kind, scene


def edit(m: Maker) -> Talk:
    """Something is made or shown, and then one thing about it is changed."""
    talk, kind, scene = _opening(m)
    asked, new, kept = edited(m, kind, scene)
    return talk.user(asked).produce((kind, new), kept=kept)


class _History:
    """A conversation that goes on: what was spoken of last, as which kind, and what came first."""

    def __init__(self, m: Maker):
        self.m = m
        self.talk, self.kind, self.scene = _opening(m)
        self.first = (self.kind, self.scene)

    def go_on(self) -> None:
        """One more turn about what was spoken of."""
        moves = [self._edit, self._hear, self._see, self._clip, self._ask, self._recall_first]
        moves += [self._other] * 2
        self.m.pick(moves)()

    def _made(self, asked: str, kind: str, scene: Scene, kept: Any = ()) -> None:
        self.talk.user(asked).produce((kind, scene), kept=kept)
        usual = as_usual(kind, scene)
        if kind == "audio":  # a sound has no colour, but the thing that makes it may have had one
            usual = usual.but(colour=self.scene.colour if self.scene.thing == usual.thing else None)
        self.kind, self.scene = kind, usual

    def _edit(self) -> None:
        shown = self.scene.but(colour=None) if self.kind == "audio" else self.scene
        asked, new, kept = edited(self.m, self.kind, shown)
        self._made(asked, self.kind, new, kept)

    def _hear(self) -> None:
        self._made(self.m.ask("then_hear_it"), "audio", Scene(self.scene.thing))

    def _see(self) -> None:
        self._made(self.m.ask("then_see_it"), "image", Scene(self.scene.thing, self.scene.colour))

    def _clip(self) -> None:
        wanted = Scene(self.scene.thing, self.scene.colour)
        if self.m.chance(0.3):
            self._made(self.m.ask("then_clip"), "video", wanted)
            return
        wanted = wanted.but(motion=self.m.motion_for(wanted.thing, self.scene.motion))
        self._made(self.m.ask("then_clip_moving", scene=wanted), "video", wanted)

    def _other(self) -> None:
        """A change of subject: something else is asked for."""
        kind = self.m.pick(("image", "video", "audio"))
        text, media = self.m.wish([kind], f"ask_{kind}")
        self.scene = Scene("")
        self._made(text, *media[0])

    def _ask(self) -> None:
        """A question about what was spoken of last."""
        if self.scene.colour and self.m.chance(0.5):
            reply = f"It was {self.scene.colour}."
            self.talk.user(self.m.ask("recall_colour")).answer(reply, colour=self.scene.colour)
        elif self.kind == "audio" and self.scene.count:
            reply = f"It {DOES[self.scene.thing]} {times(self.scene.count)}."
            self.talk.user(self.m.ask("recall_times")).answer(reply, count=self.scene.count)
        elif self.m.chance(0.5):
            reply = f"It was {article(self.scene.thing)}."
            self.talk.user(self.m.ask("recall_thing")).answer(reply, thing=self.scene.thing)
        else:
            asked, reply, names = about(self.m, self.kind, self.scene)
            self.talk.user(asked).answer(reply, **names)

    def _recall_first(self) -> None:
        """A question about the first medium, or a wish to have it once more."""
        kind, scene = self.first
        if self.m.chance(0.25):
            self._made(self.m.ask("first_again"), kind, scene)
        elif scene.colour and self.m.chance(0.6):
            reply = f"The first one was {scene.colour}."
            self.talk.user(self.m.ask("recall_colour_of_first")).answer(reply, colour=scene.colour)
        else:
            reply = f"The first one was {article(scene.thing)}."
            self.talk.user(self.m.ask("recall_thing_of_first")).answer(reply, thing=scene.thing)


def follow_up(m: Maker) -> Talk:
    """Two to five turns, each about what was shown, made or said before."""
    history = _History(m)
    for _ in range(int(m.rng.integers(1, 5))):
        history.go_on()
    return history.talk


def change_of_subject(m: Maker) -> Talk:
    """Two talks in one conversation that have nothing to do with each other."""
    before, now = (m.pick(_SINGLE.values())(m) for _ in range(2))
    return Talk(before.messages + now.messages, now.expect)


TURNS: dict[str, Task] = {
    "edit": edit,
    "follow-up": follow_up,
    "change of subject": change_of_subject,
}
