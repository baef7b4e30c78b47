"""Writes the toy world as a dataset: media files, manifests for every split, and plain talk.

    python -m anytoany_lib.toyworld.dataset OUT [--media N --conversations N --seed S]

Training rows are captioned media (stages 1 and 2) and conversations about them (stage 3). Test rows are the cells of
the any-to-any matrix and more, worded as no training row is; some show pairs that no training set has.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from anytoany_lib.config import Profile
from anytoany_lib.data.building import check_target
from anytoany_lib.data.drawn_worlds import SceneFiles, generator
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import Row, exchange, text_part
from anytoany_lib.generation.replies import reply_all
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny
from anytoany_lib.system.files import appearing_whole
from anytoany_lib.toyworld.conversations import (
    BEYOND,
    BRIEF_PLAIN_SHARE,
    BRIEF_SHARES,
    CELLS,
    PLAIN_SHARE,
    SHARES,
    Maker,
    Talk,
    plain,
)
from anytoany_lib.toyworld.conversations.aloud import wished
from anytoany_lib.toyworld.conversations.authors import known_answers, wordings
from anytoany_lib.toyworld.conversations.whole import WHOLE, requests_of
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.pictures import FPS, FRAMES, PIXELS
from anytoany_lib.toyworld.scenes import Scene, random_scene, render
from anytoany_lib.toyworld.sounds import RATE, SECONDS

SOURCE = "toyworld"
_MEASURES = {"image": (PIXELS, 0.0), "audio": (0, SECONDS), "video": (PIXELS, FRAMES / FPS)}
_BRIEF = 8000  # conversations: with fewer, hard tasks make room for conversions
_KIND_SHARES = {"image": 0.4, "audio": 0.3, "video": 0.3}
_QUESTIONS_A_ROW = 0.4  # of plain talk: the untouched LLM takes a tenth of a second for an answer
_PLAIN_TEST_ROWS = 30
_PLAIN_A_SPOKEN = 8  # plain rows that stand alone for each that wants its answer aloud, or not
_UNSEEN_SHARE = 0.25
_NOTHING_UNSEEN = (
    *("text->text", "text->audio", "audio->text"),
    *("which more often", "whole request", "whole remark", "aloud"),
)
_BETWEEN_SENTENCES = re.compile(r"(?<=[^\d\s][.!?])\s+")  # not behind "1.", which counts a list


def _shown(kind: str, scene: Scene, rng: np.random.Generator) -> Any:
    """A scene as `media_files.save` takes it: a picture, (samples, rate), or (frames, rate)."""
    made = render(kind, scene, rng)
    return made if kind == "image" else (made, RATE if kind == "audio" else FPS)


def conversation_rows(
    split: str, count: int, rng: np.random.Generator, files: SceneFiles, shares: dict[str, float]
) -> list[Row]:
    """Conversations of all tasks, in these shares."""
    tasks = CELLS | BEYOND
    weights = np.array([shares[name] for name in tasks])
    rows = []
    for number in tqdm(range(count), desc=f"{split} conversations"):
        name = str(rng.choice(list(tasks), p=weights / weights.sum()))
        talk = tasks[name](Maker(rng, split))
        rows.append(
            Row(f"{split}-talk-{number}", SOURCE, files.stored(talk.messages), {"task": name})
        )
    return rows


def test_rows(per_task: int, per_text_task: int, seed: int, files: SceneFiles) -> list[Row]:
    """`per_task` rows of every cell and every other task, a quarter of them on held-out pairs where there are any.

    The cells that read text alone get `per_text_task` rows. The test authors word them in turn.
    """
    rows = []
    authors = tuple(wordings("test"))
    for name, task in tqdm((CELLS | BEYOND).items(), desc="test conversations"):
        rng = generator(seed, "test", name)
        count = per_text_task if name.startswith("text->") else per_task
        turn = tuple(requests_of(name, "test")) if name in WHOLE else authors
        for number in range(count):
            unseen = number < round(count * _UNSEEN_SHARE) and name not in _NOTHING_UNSEEN
            author = turn[number % len(turn)]
            talk = task(Maker(rng, "test", unseen, author))
            messages = files.stored(talk.messages[:-1])
            meta = {"task": name, "expect": talk.expect, "unseen": unseen, "author": author}
            rows.append(Row(f"test-{name}-{number}", SOURCE, messages, meta))
    return rows


def plain_questions(split: str, most: int, seed: int) -> list[tuple[str, str]]:
    """(author, question) of a split's plain talk, all authors' alike, at most so many."""
    everything = [(author, line) for author, lines in plain(split).items() for line in lines]
    order = generator(seed, "plain", split).permutation(len(everything))
    return [everything[number] for number in order[:most]]


def plain_rows(
    split: str,
    count: int,
    asked: Sequence[tuple[str, str]],
    answers: dict[str, str],
    around: Callable[[], list[dict[str, Any]]] | None = None,
) -> list[Row]:
    """The (author, question) pairs with the untouched LLM's answers, again and again until there are `count`; none that it did
    not answer.

    With `around` a quarter of them follow what it returns, another conversation, and a quarter go before one. Those alone
    say `plain`: training may hold them to the untouched LLM (see `StageConfig.divergence_weight`).
    """
    questions = [(author, question) for author, question in asked if answers[question]]
    if not questions:
        return []
    rows = []
    for number in range(max(count, len(questions))):
        author, question = questions[number % len(questions)]
        messages = exchange([text_part(question)], [text_part(answers[question])])
        # By the times that all questions have come, so that each of them comes in every place.
        place = (number + number // len(questions)) % 4
        alone = around is None or place < 2
        if around and not alone:
            messages = around() + messages if place == 2 else messages + around()
        meta = {"task": "plain", "expect": [{"kind": "text", "scene": {}}], "unseen": False}
        meta |= {"author": author, "plain": alone}
        rows.append(Row(f"{split}-plain-{number}", SOURCE, messages, meta))
    return rows


def spoken_rows(plain_talk: Sequence[Row], maker: Maker) -> list[Row]:
    """Some of the plain rows that stand alone once more, with the wish to hear the answer, or now and then not to."""
    rows = []
    for row in [row for row in plain_talk if row.meta["plain"]][::_PLAIN_A_SPOKEN]:
        talk = wished(maker, Talk(deepcopy(row.messages)), maker.chance(0.75))
        rows.append(Row(f"{row.id}-aloud", SOURCE, talk.messages, {"task": "aloud"}))
    return rows


def known_rows(most: int, seed: int) -> list[Row]:
    """At most so many plain questions whose answers are known."""
    questions = known_answers()
    rows = []
    for number in generator(seed, "known answers").permutation(len(questions))[:most]:
        question, answers = questions[number]
        messages = [{"role": "user", "content": [text_part(question)]}]
        expect = [{"kind": "text", "scene": {"answers": answers}}]
        meta = {"task": "known answers", "expect": expect, "unseen": False}
        rows.append(Row(f"test-known-{number}", SOURCE, messages, meta))
    return rows


def _whole_sentences(text: str) -> list[str]:
    return [s for s in _BETWEEN_SENTENCES.split(text.strip()) if re.search(r"[^\d\s][.!?]$", s)]


def untouched(profile: Profile, seed: int = 0) -> Callable[[Sequence[str]], list[str]]:
    """The function that answers plain questions with the profile's LLM as it was published, in 16 bits.

    Answers end with a sentence, two at most; a question without a whole sentence in 48 tokens gets "".
    """
    plain = profile.model_copy(
        update={"llm": profile.llm.model_copy(update={"quantization": "none"})}
    )
    model = AnyToAny.from_profile(plain, seed)

    def answer(questions: Sequence[str]) -> list[str]:
        """The untouched model's answer to each question."""
        conversations = [[{"role": "user", "content": question}] for question in questions]
        replies = reply_all(
            model, conversations, seed, Sampling(kinds=(), max_new_tokens=48), batch_size=64
        )
        texts = ["".join(part["text"] for part in reply["content"]) for reply in replies]
        return [" ".join(_whole_sentences(text)[:2]) for text in texts]

    return answer


def write(
    out: Path,
    answer: Callable[[Sequence[str]], list[str]],
    media_count: int = 2400,
    conversations: int = 5000,
    per_task: int = 24,
    seed: int = 0,
    per_text_task: int | None = None,
    questions_a_row: float = _QUESTIONS_A_ROW,
) -> dict[str, int]:
    """Writes the dataset into a folder (whole or not at all); returns the rows of each split.

    `answer` gives the untouched LLM's answers to plain questions, of which there are `questions_a_row` for each row of plain
    talk: the others come again.
    """
    check_target(Path(out), overwrite=True)
    brief = conversations < _BRIEF
    shares, plain_share = (BRIEF_SHARES, BRIEF_PLAIN_SHARE) if brief else (SHARES, PLAIN_SHARE)
    plain_count = round(conversations * plain_share)
    most = {
        "train": round(plain_count * questions_a_row),
        "validation": conversations,
        "test": max(_PLAIN_TEST_ROWS, per_task * 5),
    }
    asked = {split: plain_questions(split, count, seed) for split, count in most.items()}
    everything = [question for pairs in asked.values() for _, question in pairs]
    answers = dict(zip(everything, answer(everything), strict=True))
    report = Report()
    with appearing_whole(Path(out)) as folder:
        for split, media_rows, talks in (
            ("train", media_count, conversations),
            ("validation", media_count // 12, conversations // 25),
        ):
            rng = generator(seed, split)
            files = SceneFiles(folder, split, rng, _shown, _MEASURES, pool=4)
            rows = files.captioned_rows(SOURCE, media_rows, _KIND_SHARES, random_scene, caption)
            rows += conversation_rows(split, talks, rng, files, shares)
            if talks:
                maker, count = Maker(rng, split), round(talks * plain_share)
                around = partial(_any_talk, maker, files)
                of_plain = plain_rows(split, count, asked[split], answers, around)
                rows += [*of_plain, *spoken_rows(of_plain, maker)]
            files.write(rows, report)
        files = SceneFiles(folder, "test", generator(seed, "test"), _shown, _MEASURES, pool=1)
        rows = test_rows(per_task, per_text_task or per_task, seed, files)
        rows += plain_rows("test", 0, asked["test"], answers)
        rows += known_rows(most["test"], seed)
        files.write(rows, report)
        report.save(folder / "report.json")
    return report.splits


def _any_talk(maker: Maker, files: SceneFiles) -> list[dict[str, Any]]:
    """A conversation of any cell of the matrix."""
    return files.stored(maker.pick(CELLS.values())(maker).messages)


def main() -> None:
    """Command line: write the toy world with the profile's LLM answering plain questions."""
    parser = argparse.ArgumentParser(description="Write the toy world as a dataset.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--media", type=int, default=2400)
    parser.add_argument("--conversations", type=int, default=5000)
    parser.add_argument("--per-task", type=int, default=24, help="test rows of each task")
    parser.add_argument(
        "--per-text-task",
        type=int,
        help="test rows of each task that reads text alone (as others)",
    )
    parser.add_argument(
        "--questions-a-row",
        type=float,
        default=_QUESTIONS_A_ROW,
        help="different questions for each row of plain talk",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    answer = untouched(Profile.load(options.profile))
    print(
        write(
            options.out,
            answer,
            options.media,
            options.conversations,
            options.per_task,
            options.seed,
            options.per_text_task,
            options.questions_a_row,
        )
    )


if __name__ == "__main__":
    main()
