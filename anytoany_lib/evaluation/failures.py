"""Replies to look at: some that went well, and every one that did not.

RUN/evaluation/examples.json    up to so many right and wrong replies of each task, whole, with their media beside it
RUN/evaluation/failures.jsonl   one line for every wrong reply: what was asked, said and expected, and what was wrong
RUN/evaluation/outcomes.json    what every row added to each rate, to hold two runs against each other row by row
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anytoany_lib.evaluation.judging import Verdict, cell_of, grouped, outcomes, request_of
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import Message, medium_of, parts_of
from anytoany_lib.system.files import appearing_whole

EXAMPLES, FAILURES, OUTCOMES = "examples.json", "failures.jsonl", "outcomes.json"


def in_short(messages: Sequence[Message]) -> str:
    """The words of messages, with [image] where one stands."""
    parts = [part for message in messages for part in parts_of(message)]
    return " ".join(p["text"] if p["type"] == "text" else f"[{p['type']}]" for p in parts).strip()


def _saved(part: dict[str, Any], folder: Path, stem: str) -> dict[str, Any]:
    """A part with its medium in a file of the folder; a medium that cannot be written leaves the reason."""
    kind = part["type"]
    if kind == "text":
        return part
    name = f"{stem}{media_files.SUFFIX[kind]}"
    try:
        media_files.save(kind, folder / name, medium_of(part))
    except MediaError as error:
        (folder / name).unlink(missing_ok=True)
        return {"type": "text", "text": f"[{kind} that cannot be written: {error}]"}
    return {"type": kind, kind: name}


def _example(verdict: Verdict, folder: Path, number: int) -> dict[str, Any]:
    """A reply as examples.json has it, its media written."""
    parts = [
        _saved(part, folder, f"{number:03d}-{place}")
        for place, part in enumerate(verdict.reply["content"])
    ]
    return {
        "task": verdict.row.meta["task"],
        "right": verdict.right,
        "attributes": verdict.attributes,
        "modality": verdict.modality,
        "expect": verdict.row.meta["expect"],
        "messages": [*verdict.row.messages, {"role": "assistant", "content": parts}],
    }


def _failure(verdict: Verdict, example: int | None) -> dict[str, Any]:
    """A line of failures.jsonl; `example` is the reply's place in examples.json, None if it is not kept there."""
    row = verdict.row
    return {
        "row": row.id,
        "task": row.meta["task"],
        "cell": cell_of(row),
        "unseen": row.meta["unseen"],
        "asked": in_short(request_of(row)),
        "said": in_short([verdict.reply]),
        "expected": [
            {name: value for name, value in part.items() if name != "scene"} | part["scene"]
            for part in row.meta["expect"]
        ],
        "wrong": verdict.wrong,
        "failed": verdict.reply.get("failed", []),
        "example": example,
    }


def _outcomes(results: Sequence[Verdict], test_rows: str) -> dict[str, Any]:
    """{"test_rows", "cells": {cell: {"rows": their names, rate: 1, 0 or null of each row}}}."""
    cells: dict[str, dict[str, list]] = {}
    for cell, found in grouped(results).items():
        cells[cell] = {"rows": [verdict.row.id for verdict in found]} | {
            rate: [None if math.isnan(value) else int(value) for value in values]
            for rate, values in outcomes(found).items()
        }
    return {"test_rows": test_rows, "cells": cells}


def save(folder: Path, results: Sequence[Verdict], per_task: int, test_rows: str = "") -> None:
    """Writes the three files, with media of the first `per_task` right and wrong replies of each task; `test_rows` names their set."""
    seen: Counter[tuple[str, bool]] = Counter()
    with appearing_whole(folder) as work:
        examples: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        for verdict in results:
            group = verdict.row.meta["task"], verdict.right
            kept = seen[group] < per_task
            seen[group] += 1
            if not verdict.right:
                failures.append(_failure(verdict, len(examples) if kept else None))
            if kept:
                examples.append(_example(verdict, work, len(examples)))
        (work / EXAMPLES).write_text(json.dumps(examples, indent=1) + "\n")
        lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures]
        (work / FAILURES).write_text("".join(lines), encoding="utf-8")
        (work / OUTCOMES).write_text(json.dumps(_outcomes(results, test_rows)) + "\n")
