"""Verdicts: a test row's reply, judged by what the row says it should contain, and the rates that verdicts add up to.

`row.meta["expect"]` lists for each part of the reply its kind and the attributes that a judge should find ("scene"), and may
say whether its words are to be said ("aloud"): the rate is "aloud" where they are, "silent" where not. What is missing,
empty, broken or of another kind is wrong in all that was asked; nothing is left out.
"""

import importlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anytoany_lib.config import Profile, resolve
from anytoany_lib.data.rows import Row, media_in
from anytoany_lib.messages import Message
from anytoany_lib.modalities import ALOUD, KINDS, SHOWN_KINDS

# The judges there are, by the name a profile calls them; what a profile says is looked up here, never imported. Code that
# brings judges of its own adds them: JUDGES["mine"] = "my.module", with judge() and judge_text() as toyworld.judges has them.
JUDGES = dict.fromkeys(("toyworld", "anytoany_lib.toyworld.judges"), "anytoany_lib.toyworld.judges")
CELLS = tuple(f"{given}->{wanted}" for given in KINDS for wanted in KINDS)
_SHIFTS = 5
# Words that answer a question between themselves: a reply with two of them has not answered.
_VERDICTS = ({"yes", "no"}, {"first", "second", "third"}, {"same", "different"})


@dataclass
class Verdict:
    """How one test row came out; `marks` count for rates of their own name, but a reply without them is not wrong."""

    row: Row
    reply: Message
    modality: bool
    attributes: dict[str, bool]
    marks: dict[str, bool] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether all that was asked of the row is right."""
        return self.modality and all(self.attributes.values())

    @property
    def wrong(self) -> list[str]:
        """The names of the rates that this row lowers."""
        outcomes = {**self.attributes, "modality": self.modality}
        return [name for name, right in outcomes.items() if not right]


def load_judges(profile: Profile) -> Any:
    """The judges that the profile names. ValueError if it names none, or some that are not in the table."""
    if profile.judges is None or profile.judges_folder is None:
        raise ValueError(
            f"profile {profile.name} names no judges; set judges (toyworld) and judges_folder"
        )
    if profile.judges not in JUDGES:
        raise ValueError(
            f"profile {profile.name} names the judges {profile.judges!r}; there are {', '.join(JUDGES)}. Code that brings more "
            "adds them to anytoany_lib.evaluation.judging.JUDGES before it evaluates"
        )
    judges = importlib.import_module(JUDGES[profile.judges])
    return judges.load_judges(resolve(profile.judges_folder))


def check_expected(row: Row, meta: Sequence[str], part: Sequence[str]) -> None:
    """ValueError names what a row's meta, or a part that its reply should contain, does not say; only media need a caption."""
    lacking = [f"meta[{name!r}]" for name in meta if name not in row.meta]
    for expected in row.meta["expect"]:
        needed = [n for n in part if n != "caption" or expected.get("kind") != "text"]
        lacking += [f"{name!r} in {expected}" for name in needed if name not in expected]
    if lacking:
        raise ValueError(
            f"test row {row.id} cannot be measured: expected {', '.join(lacking)}, and found none; write it into the manifest"
        )


def request_of(row: Row) -> list[Message]:
    """The row's conversation up to the reply that is measured."""
    return row.messages[:-1] if row.messages[-1]["role"] == "assistant" else row.messages


def cell_of(row: Row) -> str:
    """Where a row is counted: its cell of the matrix, "image+audio->text" if one message shows several media, else its task."""
    task, request = row.meta["task"], request_of(row)
    shown = [kind for kind, _ in media_in(request)]
    if task in CELLS or len(request) != 1 or len(shown) < 2:
        return task
    answered = dict.fromkeys(part["kind"] for part in row.meta["expect"])
    return f"{'+'.join(sorted(shown, key=('text', *SHOWN_KINDS).index))}->{'+'.join(answered)}"


def grouped(results: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Verdicts by cell."""
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in results:
        groups[cell_of(verdict.row)].append(verdict)
    return dict(groups)


def text_of(reply: Message) -> str:
    """All that a reply says in words."""
    return " ".join(part["text"] for part in reply["content"] if part["type"] == "text")


def given(reply: Message, kind: str, number: int = 0) -> Any:
    """The `number`-th medium of a kind in a reply, a sound's samples alone; None if there are fewer."""
    of_kind = [part[kind] for part in reply["content"] if part["type"] == kind]
    return of_kind[number] if number < len(of_kind) else None


def _answered(row: Row, reply: Message) -> bool:
    """Whether a reply has exactly the kinds of media that it should have, in order, and words where words were asked for."""
    wanted = [part["kind"] for part in row.meta["expect"]]
    came = [part["type"] for part in reply["content"] if part["type"] != "text"]
    said = "text" not in wanted or bool(text_of(reply).strip())
    return said and came == [kind for kind in wanted if kind != "text"]


def _text_kind(scene: dict[str, Any]) -> str:
    """The kind of medium whose attributes a text about this scene names."""
    if scene.keys() & {"count", "pitch"}:
        return "audio"
    return "video" if "motion" in scene else "image"


def _asked(
    rows: Sequence[Row], replies: Sequence[Message]
) -> dict[tuple[str, str], list[tuple[int, Any, dict]]]:
    """What there is to judge, by (kind of part, kind of attributes): (row number, medium or text, scene)."""
    jobs = defaultdict(list)
    for number, (row, reply) in enumerate(zip(rows, replies, strict=True)):
        seen: dict[str, int] = defaultdict(int)
        for part in row.meta["expect"]:
            kind, scene = part["kind"], part["scene"]
            if kind == "text":
                jobs["text", _text_kind(scene)].append((number, text_of(reply), scene))
            else:
                jobs[kind, kind].append((number, given(reply, kind, seen[kind]), scene))
                seen[kind] += 1
    return jobs


def _says(text: str, word: str) -> bool:
    """Whether an answer has a word, and none of those that answer the same question otherwise."""
    others = next((words for words in _VERDICTS if word in words), set()) - {word}
    spoken = set(re.findall(r"\w+", text.lower()))
    return word in spoken and not spoken & others


def _answers(text: str, forms: Sequence[str]) -> bool:
    """Whether a text has one of the forms of a known answer, as whole words."""
    lowered = text.lower()
    return any(re.search(rf"(?<!\w){re.escape(form.lower())}(?!\w)", lowered) for form in forms)


def _judged(
    judges: Any, kind: str, about: str, items: Sequence[Any], scenes: Sequence[dict]
) -> dict[str, np.ndarray]:
    """1.0 right, 0.0 wrong, nan not asked, of each attribute and item."""
    judge = judges.judge_text if kind == "text" else judges.judge
    found = dict(judge(about, items, scenes))
    if kind == "text":
        for name, is_right in (("says", _says), ("answers", _answers)):
            right = [
                float(is_right(text, scene[name])) if name in scene else np.nan
                for text, scene in zip(items, scenes, strict=True)
            ]
            found[name] = np.array(right)
    return found


def verdicts(judges: Any, rows: Sequence[Row], replies: Sequence[Message]) -> list[Verdict]:
    """Every row's reply, judged."""
    results = [
        Verdict(row, reply, _answered(row, reply), {})
        for row, reply in zip(rows, replies, strict=True)
    ]
    for (kind, about), jobs in _asked(rows, replies).items():
        numbers, items, scenes = zip(*jobs, strict=True)
        for attribute, values in _judged(judges, kind, about, items, scenes).items():
            for number, value in zip(numbers, values, strict=True):
                if not np.isnan(value):
                    right = results[number].attributes.get(attribute, True) and bool(value)
                    results[number].attributes[attribute] = right
    for verdict in results:
        found = verdict.attributes
        for wanted in {part[ALOUD] for part in verdict.row.meta["expect"] if ALOUD in part}:
            said = any(part.get(ALOUD, False) for part in verdict.reply["content"])
            found[ALOUD if wanted else "silent"] = verdict.modality and said == wanted
        # Of an edit, whether all that was asked for is so, and all else as it was.
        if kept := {n for part in verdict.row.meta["expect"] for n in part.get("kept", ())}:
            for mark, names in (("asked", found.keys() - kept), ("kept", found.keys() & kept)):
                verdict.marks[mark] = verdict.modality and all(found[name] for name in names)
    return results


def by_author(results: Sequence[Verdict]) -> dict[str, dict[str, Any]]:
    """{author: {"n", "modality", "right", "cells": {cell: the same}}} where rows say who worded them.

    `right` is the share of replies in which everything is: the kinds of media in order, and all that was asked of each.
    """
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in results:
        if author := verdict.row.meta.get("author"):
            groups[author].append(verdict)
    return {
        author: _shares(own)
        | {"cells": {n: _shares(of_cell) for n, of_cell in grouped(own).items()}}
        for author, own in sorted(groups.items())
    }


def _shares(results: Sequence[Verdict]) -> dict[str, Any]:
    """Of these replies how many, the share with the right kinds of media, and of those right in everything."""
    return {
        "n": len(results),
        "modality": round(float(np.mean([v.modality for v in results])), 4),
        "right": round(float(np.mean([v.right for v in results])), 4),
    }


def outcomes(results: Sequence[Verdict]) -> dict[str, np.ndarray]:
    """Of each rate what the N rows add to it, (N,): 1.0, 0.0, nan where not asked; unseen_pairs are held-out ones wholly right."""
    named = [{"modality": v.modality} | v.marks | v.attributes for v in results]
    names = dict.fromkeys(name for of_row in named for name in of_row)
    found = {name: [of_row.get(name, np.nan) for of_row in named] for name in names}
    if any(v.row.meta["unseen"] for v in results):
        found["unseen_pairs"] = [v.right if v.row.meta["unseen"] else np.nan for v in results]
    return {name: np.array(values, dtype=float) for name, values in found.items()}


def rates(results: Sequence[Verdict]) -> dict[str, float | int]:
    """A cell of the matrix: number of rows, and the mean of each of their `outcomes`."""
    return {"n": len(results), **means(outcomes(results))}


def means(found: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean of each attribute over the items that it was asked of; without those that none was asked of."""
    return {a: round(float(np.nanmean(v)), 4) for a, v in found.items() if not np.isnan(v).all()}


def chance_by_part(
    judges: Any, rows: Sequence[Row], replies: Sequence[Message]
) -> dict[str, dict[str, float]]:
    """How often each kind of part is judged right about the scenes of other rows: what guessing would reach."""
    table = {}
    for (kind, about), jobs in _asked(rows, replies).items():
        _, items, scenes = zip(*jobs, strict=True)
        shifts = range(1, min(_SHIFTS + 1, len(jobs)))
        shifted = [
            scenes[(n + shift) % len(scenes)] for shift in shifts for n in range(len(scenes))
        ]
        found = _judged(judges, kind, about, list(items) * len(shifts), shifted) if shifts else {}
        table[kind if kind != "text" else f"text about {about}"] = means(found)
    return table
