"""How well speech is said and heard, for docs/speech.md: a table for each machine in bench/results that `bench/speech.py` ran on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "bench" / "results"


def measured() -> str:
    """Every recorded result of the bench, the newest last; a sentence if there is none."""
    found = [json.loads(file.read_text("utf-8")) for file in RESULTS.glob("speech-*.json")]
    tables = [_table(result) for result in sorted(found, key=lambda result: result["date"])]
    return "\n\n".join(tables) or "Nothing has been measured yet: `python bench/speech.py`."


def _table(result: dict[str, Any]) -> str:
    own, sounds = result["own voice"], result["toy world"]
    rows = [
        ("our voice, heard by our recogniser", own["sentences"], _rate(own)),
        (
            "sounds of the toy world, taken for speech",
            sounds["sounds"],
            f"{100 * sounds['share heard as speech']:.1f} %",
        ),
        (
            "a second of speech said",
            own["sentences"],
            f"{own['core seconds to say one of speech']:.3f} s of one core",
        ),
        (
            "a second of speech heard",
            own["sentences"],
            f"{own['core seconds to hear one of speech']:.2f} s of one core",
        ),
    ]
    if human := result.get("human voice"):
        shown = f"{human['prompts']} of {human['of']}"
        rows.insert(
            1, ("a human voice, on a telephone line (Debian's prompts)", shown, _rate(human))
        )
    lines = [
        f"Profile `{result['profile']}`, {result['machine']}, {result['date']}:",
        "",
        "| what | of | measured |",
        "| --- | ---: | ---: |",
        *(f"| {what} | {count} | {number} |" for what, count, number in rows),
    ]
    return "\n".join(lines)


def _rate(part: dict[str, Any]) -> str:
    return f"{100 * part['word error rate']:.1f} % of words wrong"
