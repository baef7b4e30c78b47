"""Answers by voice: asked for in many words, asked not to be, once more what was said before, and where nobody asked for them.

A reply is said aloud only when its own request wants that: not because the one before it did, nor because a sound is wanted.
"""

from __future__ import annotations

from anytoany_lib.modalities import ALOUD
from anytoany_lib.toyworld.conversations.authors import kit
from anytoany_lib.toyworld.conversations.cells import CELLS, Task, sentence
from anytoany_lib.toyworld.conversations.questions import QUESTIONS
from anytoany_lib.toyworld.conversations.talks import Maker, Talk
from anytoany_lib.toyworld.conversations.whole import WHOLE
from anytoany_lib.toyworld.language import caption

# Tasks of one turn that show one medium at most and are answered in words.
_ANSWERED = tuple(
    (CELLS | QUESTIONS | WHOLE)[name]
    for name in (
        *("text->text", "image->text", "audio->text", "video->text"),
        *("image question", "audio question", "video question", "yes or no", "whole question"),
    )
)
_SOUNDS = tuple(task for name, task in CELLS.items() if name.endswith("->audio"))
_OWN_WORDS = 0.6  # of what is to be said: the rest are captions
_SMALL_LETTERS = 0.25


def _marked(talk: Talk, aloud: bool) -> Talk:
    """The talk with its last reply said aloud, or not, which is what is expected of it."""
    for part in talk.messages[-1]["content"]:
        if aloud and part["type"] == "text":
            part[ALOUD] = True
    talk.expect = [{**part, ALOUD: aloud} for part in talk.expect]
    return talk


def _said(m: Maker, key: str, **words: str) -> str:
    """One of the kit's wordings, now and then in small letters: what it is to say has no slips."""
    text = m.said(key, **words)
    return text.lower() if m.split != "test" and m.chance(_SMALL_LETTERS) else text


def wished(m: Maker, talk: Talk, aloud: bool) -> Talk:
    """A talk whose last request wants its answer said aloud, or in writing."""
    request = talk.messages[-2]["content"][-1]
    request["text"] = _said(m, "by_voice" if aloud else "in_writing", request=request["text"])
    return _marked(talk, aloud)


def _answered(m: Maker) -> Talk:
    return m.pick(_ANSWERED)(m)


def _words(m: Maker, aloud: bool) -> Talk:
    """Words that are to be said aloud, or written down."""
    words = caption(kind := m.pick(("image", "audio", "video")), m.scene(kind))
    if m.chance(_OWN_WORDS):
        words = m.pick(kit()["sayings"]["test" if m.split == "test" else "train"])
    quoted = m.pick((words, words, f'"{words}"', f"'{words}'"))
    asked = _said(m, "say_words" if aloud else "write_words", words=quoted)
    return _marked(Talk().user(asked).answer(sentence(words), answers=[words]), aloud)


def _again(m: Maker, aloud: bool) -> Talk:
    """What the last reply said, once more: aloud, or in writing."""
    talk = _answered(m)
    if m.chance(0.4):
        talk = wished(m, talk, m.chance(0.5))
    text = talk.messages[-1]["content"][0]["text"]
    asked = _said(m, "again_by_voice" if aloud else "again_in_writing")
    return _marked(talk.user(asked).answer(text, answers=[text]), aloud)


def _afterwards(m: Maker) -> Talk:
    """Something that is asked for as ever, behind an answer that was wanted aloud."""
    before, now = wished(m, _answered(m), True), _marked(m.pick(CELLS.values())(m), False)
    return Talk(before.messages + now.messages, now.expect)


def _sound(m: Maker) -> Talk:
    """A sound that is asked for: it stays one, and its words are not said."""
    return _marked(m.pick(_SOUNDS)(m), False)


# How often what is asked.
_TASKS: tuple[tuple[float, Task], ...] = (
    (0.34, lambda m: wished(m, _answered(m), True)),
    (0.14, lambda m: _words(m, True)),
    (0.16, lambda m: _again(m, True)),
    (0.10, lambda m: wished(m, _answered(m), False)),
    (0.04, lambda m: _words(m, False)),
    (0.06, lambda m: _again(m, False)),
    (0.10, _afterwards),
    (0.06, _sound),
)


def aloud(m: Maker) -> Talk:
    """A request for an answer by voice, or one beside it that is none."""
    shares, tasks = zip(*_TASKS, strict=True)
    return tasks[int(m.rng.choice(len(tasks), p=shares))](m)
