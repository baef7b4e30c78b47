"""Speech in the any-to-any matrix: replies as the recogniser hears them, and spoken requests beside the same ones typed.

    anytoany speech --run RUN [--data DATA --per-task N]

A text->speech row is a reply in words, said by the profile's voice and heard by its recogniser: its word error rate. A
speech-> row is a test request of a text-> cell, said by that voice, heard, and asked in the words that were heard; its
rates stand beside those of the typed request. Results go to RUN/speech.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from anytoany_lib.checkpoints.publishing import run_to_measure
from anytoany_lib.config import portable
from anytoany_lib.data.rows import Row
from anytoany_lib.evaluation.judging import (
    cell_of,
    grouped,
    load_judges,
    rates,
    request_of,
    text_of,
    verdicts,
)
from anytoany_lib.evaluation.matrix import add_test_options, test_set
from anytoany_lib.generation.replies import reply_all
from anytoany_lib.messages import Message, parts_of
from anytoany_lib.model import AnyToAny
from anytoany_lib.speech.models import Speech, speech_of
from anytoany_lib.speech.sentences import sentences
from anytoany_lib.speech.spoken_parts import Sound, joined
from anytoany_lib.speech.word_errors import word_error_rate
from anytoany_lib.system import runs, terminal
from anytoany_lib.system.files import held, write_json
from anytoany_lib.system.remote import local, publish

RESULTS = "speech.json"
_TYPED = "text->"


def say(speech: Speech, text: str, seed: int = 0) -> Sound | None:
    """A text of any length as one sound; None if nothing in it can be said."""
    sounds = [speech.say(sentence, seed) for sentence in sentences(text)[0]]
    audible = [sound for sound in sounds if len(sound[0])]
    return joined(audible) if audible else None


def as_heard(speech: Speech, request: list[Message], seed: int = 0) -> list[Message]:
    """A request in the words that the recogniser heard when the voice said it; "" where it heard nobody."""
    heard = []
    for message in request:
        text = " ".join(part["text"] for part in parts_of(message))
        sound = say(speech, text, seed)
        words = "" if sound is None else speech.hear(sound).text
        heard.append({**message, "content": [{"type": "text", "text": words}]})
    return heard


def _asked_in_words(row: Row) -> bool:
    """Whether a row is one message of words alone in a cell of the matrix."""
    request = request_of(row)
    parts = [part for message in request for part in parts_of(message)]
    words = len(request) == 1 and all(part["type"] == "text" for part in parts)
    return words and cell_of(row).startswith(_TYPED)


def replies_said(speech: Speech, replies: Sequence[Message], seed: int) -> dict[str, Any]:
    """The cell text->speech: how many replies have words, and the rate of wrong ones among those that are heard in them."""
    texts = [text for text in map(text_of, replies) if sentences(text)[0]]
    heard = []
    for text in tqdm(texts, "replies said and heard"):
        sound = say(speech, text, seed)
        heard.append("" if sound is None else speech.hear(sound).text)
    found = {"word_errors": round(word_error_rate(texts, heard), 4)} if texts else {}
    return {"n": len(texts), **found}


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    per_task: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Measures the cells of speech on a dataset's test rows (the run's own if none is named), and writes them to the run folder.

    SpeechMissing says what speech needs; ValueError if no test row is a request in words alone, or the profile names no judges.
    """
    run = run_to_measure(run)
    record = runs.read_record(run)
    data = data or next(iter(record["data"]), None)
    if data is None:
        raise ValueError(f"{run} was trained on no dataset here: name one (--data)")
    data = local(data)
    rows = [row for row in test_set(data, per_task) if _asked_in_words(row)]
    if not rows:
        raise ValueError(f"{data}: expected test rows that ask in words alone, found none")
    profile = runs.profile_of(record, run)
    speech, judges = speech_of(profile.speech), load_judges(profile)
    for what in ("voice", "recogniser"):
        speech.check(what)
    model = AnyToAny.from_pretrained(run)
    typed = [request_of(row) for row in rows]
    spoken = [as_heard(speech, one, seed) for one in tqdm(typed, "requests said and heard")]
    with held(run, "trains or measures it"):
        results = {
            name: reply_all(model, requests, seed, batch_size=batch_size)
            for name, requests in (("typed", typed), ("spoken", spoken))
        }
        cells = {"text->speech": replies_said(speech, results["typed"], seed)}
        cells |= _beside(judges, rows, results, typed, spoken)
        metrics = {"run": portable(run), "seed": seed, "cells": cells}
        write_json(run / RESULTS, metrics)
        publish(run)
    return metrics


def _words(request: list[Message]) -> str:
    return " ".join(part["text"] for message in request for part in parts_of(message))


def _beside(
    judges: Any,
    rows: Sequence[Row],
    results: dict[str, list[Message]],
    typed: Sequence[list[Message]],
    spoken: Sequence[list[Message]],
) -> dict[str, Any]:
    """Each cell speech->KIND: how well its requests were heard, and the rates of the same rows typed and spoken."""
    judged = {name: grouped(verdicts(judges, rows, found)) for name, found in results.items()}
    asked: dict[str, list[tuple[str, str]]] = {}
    for row, said, heard in zip(rows, typed, spoken, strict=True):
        asked.setdefault(cell_of(row), []).append((_words(said), _words(heard)))
    return {
        cell.replace(_TYPED, "speech->"): {
            "n": len(pairs),
            "word_errors": round(word_error_rate(*zip(*pairs, strict=True)), 4),
            "typed": rates(judged["typed"][cell]),
            "spoken": rates(judged["spoken"][cell]),
        }
        for cell, pairs in asked.items()
    }


def table(metrics: dict[str, Any]) -> str:
    """The cells as text: word errors, and each rate spoken (typed)."""
    lines = [f"{'cell':<16}{'n':>4}  wrong words  spoken % (typed %)"]
    for name, cell in metrics["cells"].items():
        typed = cell.get("typed", {})
        shown = ", ".join(
            f"{rate} {100 * value:.0f} ({100 * typed[rate]:.0f})"
            for rate, value in cell.get("spoken", {}).items()
            if rate != "n"
        )
        wrong = f"{100 * cell['word_errors']:>10.1f}%" if "word_errors" in cell else f"{'–':>11}"
        lines.append(f"{name:<16}{cell['n']:>4}  {wrong}  {shown}".rstrip())
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure speech and print its cells."""
    parser = terminal.parser(
        "speech",
        "Measure a run that is spoken to and read aloud, by the recogniser and the judges.",
        "--run ckpt/tiny/run --data data/toy --per-task 12",
    )
    parser.add_argument("--run", required=True, help="folder, URL, or OWNER/NAME on the hub")
    add_test_options(parser)
    print(table(evaluate(**vars(parser.parse_args(arguments)))))
