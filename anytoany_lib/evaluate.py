"""The any-to-any matrix: a run's replies to unseen requests, judged by models that it was not trained to please.

    python -m anytoany_lib.evaluate --run RUN [--data DATA --per-task N]

Test rows say what their reply should contain: `meta["expect"]` lists for each part its kind, the attributes a judge
should find, and for media the caption a decoder would be told. The profile names the judges. Results go to
RUN/metrics.json, examples with their media to RUN/evaluation.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from anytoany_lib import media, runs
from anytoany_lib.batches import collate
from anytoany_lib.config import Profile, portable, resolve
from anytoany_lib.data import Row, read_manifest
from anytoany_lib.decoders import CaptionEncoder
from anytoany_lib.generation import reply_all
from anytoany_lib.messages import IGNORED, Message
from anytoany_lib.modalities import KINDS, MEDIA_KINDS
from anytoany_lib.model import AnyToAny
from anytoany_lib.train import peak_memory_bytes

METRICS, EXAMPLES = "metrics.json", "evaluation"
CELLS = tuple(f"{given}->{wanted}" for given in KINDS for wanted in KINDS)
_SHIFTS = 5
_SPARSE = 4  # an attribute may be asked of a quarter of a cell's rows only


@dataclass
class Verdict:
    """How one test row came out: were the right kinds of media given, and which attributes are right."""

    row: Row
    reply: Message
    modality: bool
    attributes: dict[str, bool]

    @property
    def right(self) -> bool:
        return self.modality and all(self.attributes.values())


def load_judges(profile: Profile) -> Any:
    """The judges that the profile names. ValueError if it names none."""
    if profile.judges is None:
        raise ValueError(
            f"profile {profile.name} names no judges; set judges (a module) and judges_folder"
        )
    return importlib.import_module(profile.judges).load_judges(resolve(profile.judges_folder))


def _text(reply: Message) -> str:
    return " ".join(part["text"] for part in reply["content"] if part["type"] == "text")


def _media_kinds(parts: Sequence[dict[str, Any]], key: str) -> list[str]:
    return [part[key] for part in parts if part[key] != "text"]


def _given(reply: Message, kind: str, number: int) -> Any:
    """The `number`-th medium of a kind in a reply, None if there are fewer."""
    of_kind = [part[kind] for part in reply["content"] if part["type"] == kind]
    return of_kind[number] if number < len(of_kind) else None


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
                jobs["text", _text_kind(scene)].append((number, _text(reply), scene))
            else:
                jobs[kind, kind].append((number, _given(reply, kind, seen[kind]), scene))
                seen[kind] += 1
    return jobs


def _judged(
    judges: Any, kind: str, about: str, items: Sequence[Any], scenes: Sequence[dict]
) -> dict[str, np.ndarray]:
    judge = judges.judge_text if kind == "text" else judges.judge
    found = dict(judge(about, items, scenes))
    if kind == "text":
        starts = [s.get("starts") for s in scenes]
        found["starts"] = np.array(
            [
                np.nan if s is None else float(t.startswith(s))
                for s, t in zip(starts, items, strict=True)
            ]
        )
    return found


def verdicts(judges: Any, rows: Sequence[Row], replies: Sequence[Message]) -> list[Verdict]:
    """Every row's reply, judged."""
    results = []
    for row, reply in zip(rows, replies, strict=True):
        wanted = _media_kinds(row.meta["expect"], "kind")
        results.append(Verdict(row, reply, _media_kinds(reply["content"], "type") == wanted, {}))
    for (kind, about), jobs in _asked(rows, replies).items():
        numbers, items, scenes = zip(*jobs, strict=True)
        for attribute, values in _judged(judges, kind, about, items, scenes).items():
            for number, value in zip(numbers, values, strict=True):
                if not np.isnan(value):
                    right = results[number].attributes.get(attribute, True) and bool(value)
                    results[number].attributes[attribute] = right
    return results


def rates(results: Sequence[Verdict]) -> dict[str, float | int]:
    """A cell of the matrix: number of rows, right modalities, each attribute, and held-out pairs wholly right."""
    cell: dict[str, float | int] = {
        "n": len(results),
        "modality": float(np.mean([v.modality for v in results])),
    }
    for attribute in dict.fromkeys(name for v in results for name in v.attributes):
        cell[attribute] = float(
            np.mean([v.attributes[attribute] for v in results if attribute in v.attributes])
        )
    unseen = [v.right for v in results if v.row.meta["unseen"]]
    if unseen:
        cell["unseen_pairs"] = float(np.mean(unseen))
    return {name: value if name == "n" else round(value, 4) for name, value in cell.items()}


def chance(
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
        name = kind if kind != "text" else f"text about {about}"
        table[name] = {
            a: round(float(np.nanmean(v)), 4) for a, v in found.items() if not np.isnan(v).all()
        }
    return table


def upper_bound(
    model: AnyToAny, judges: Any, rows: Sequence[Row], seed: int, limit: int, batch_size: int
) -> dict:
    """What each decoder reaches when it is given the true caption itself, on the captions of these rows."""
    table = {}
    for kind in MEDIA_KINDS:
        wanted = [p for row in rows for p in row.meta["expect"] if p["kind"] == kind]
        wanted = list({part["caption"]: part for part in wanted}.values())[:limit]
        if not wanted:
            continue
        conditions = CaptionEncoder(model.profile.decoders[kind], model.device)(
            [p["caption"] for p in wanted]
        )
        made = []
        for start in tqdm(range(0, len(wanted), batch_size), desc=f"{kind}s from true captions"):
            group = conditions[start : start + batch_size]
            made += model.render(kind, group, [seed + start + n for n in range(len(group))])
        found = judges.judge(
            kind, [part[kind] for part in made], [part["scene"] for part in wanted]
        )
        table[kind] = {"n": len(wanted)} | {
            a: round(float(np.nanmean(v)), 4) for a, v in found.items() if not np.isnan(v).all()
        }
    return table


@torch.no_grad()
def language_loss_ratio(model: AnyToAny, rows: Sequence[Row]) -> float:
    """Cross entropy on held-out plain answers, relative to the LLM as it was before any training."""
    sums = np.zeros(2)
    for row in rows:
        batch = collate([model.messages.encode(row.messages)], lambda *_: None, None, 1).to(
            model.device
        )
        learnt = batch.labels[:, 1:] != IGNORED
        labels = batch.labels[:, 1:][learnt]
        inputs = model.embed_inputs(batch.ids, batch.media, batch.media_at)
        hidden = model.hidden_states(inputs, batch.mask, use_cache=False)[:, :-1][learnt]
        sums[0] += F.cross_entropy(model.logits(hidden), labels, reduction="sum").item()
        if model.adapter is None:
            untouched = hidden
        else:
            with model.adapter.disable_adapter():
                untouched = model.hidden_states(inputs, batch.mask, use_cache=False)[:, :-1][learnt]
        head = model.causal_lm.get_output_embeddings()
        sums[1] += F.cross_entropy(head(untouched).float(), labels, reduction="sum").item()
    return round(float(sums[0] / sums[1]), 4)


def _save_examples(folder: Path, results: Sequence[Verdict], per_task: int) -> None:
    """Up to `per_task` replies of each task that went well and as many that did not, with their media."""
    chosen: dict[tuple[str, bool], list[Verdict]] = defaultdict(list)
    for verdict in results:
        group = chosen[verdict.row.meta["task"], verdict.right]
        if len(group) < per_task:
            group.append(verdict)
    with runs.appearing_whole(folder) as work:
        records = []
        for number, verdict in enumerate(v for group in chosen.values() for v in group):
            parts = []
            for place, part in enumerate(verdict.reply["content"]):
                kind = part["type"]
                if kind != "text":
                    name = f"{number:03d}-{place}{media.SUFFIX[kind]}"
                    made = (part["audio"], part["sampling_rate"]) if kind == "audio" else part[kind]
                    media.save(kind, work / name, made, fps=part.get("fps", 8))
                    part = {"type": kind, kind: name}
                parts.append(part)
            records.append(
                {
                    "task": verdict.row.meta["task"],
                    "right": verdict.right,
                    "attributes": verdict.attributes,
                    "modality": verdict.modality,
                    "expect": verdict.row.meta["expect"],
                    "messages": [*verdict.row.messages, {"role": "assistant", "content": parts}],
                }
            )
        (work / "examples.json").write_text(json.dumps(records, indent=1) + "\n")


def test_set(data: Path, per_task: int | None) -> list[Row]:
    """The test rows that say what to expect, `per_task` of each task at most, held-out pairs in their share.

    ValueError if there are none.
    """
    manifest = read_manifest(data, "test")
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in manifest:
        if "expect" in row.meta:
            groups[row.meta["task"]].append(manifest.resolved(row))
    if not groups:
        raise ValueError(
            f"{data}: no test row says what its reply should contain (meta['expect']); python -m anytoany_lib.retrieval "
            "measures captioned media without judges"
        )
    chosen = []
    for rows in groups.values():
        # Evenly over the group, so that held-out pairs keep their share.
        picks = (
            np.linspace(0, len(rows) - 1, min(per_task or len(rows), len(rows))).round().astype(int)
        )
        chosen += [rows[n] for n in picks]
    return chosen


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    per_task: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    examples: int = 2,
    bound: int = 48,
    save: bool = True,
) -> dict[str, Any]:
    """Measures a run on the test rows of a dataset (its own if none is named); returns its metrics.

    With `save` they are written to the run folder, examples beside them.

    `bound` is the number of captions for the upper bound of each decoder, `examples` how many right and wrong replies
    of each task are kept with their media.
    """
    run = resolve(run)
    record = runs.read_record(run)
    data = data or next(iter(record["data"]), None)
    if data is None:
        raise ValueError(
            f"{run} was trained on no dataset here: name one (--data, or DATA in notebook 08)"
        )
    data = resolve(data)
    started = time.perf_counter()
    model = AnyToAny.from_pretrained(run)
    judges = load_judges(model.profile)
    rows = test_set(data, per_task)
    prompts = [
        row.messages[:-1] if row.messages[-1]["role"] == "assistant" else row.messages
        for row in rows
    ]
    replies = []
    by_task = range(0, len(rows), 4 * batch_size)
    for start in tqdm(by_task, desc="replies"):
        replies += reply_all(
            model, prompts[start : start + 4 * batch_size], seed + start, batch_size=batch_size
        )
    results = verdicts(judges, rows, replies)
    tasks = {
        name: [v for v in results if v.row.meta["task"] == name]
        for name in dict.fromkeys(r.meta["task"] for r in rows)
    }
    plain = [row for row in rows if row.messages[-1]["role"] == "assistant"]
    metrics = {
        "profile": record["profile"]["name"],
        "run": portable(run),
        "seed": seed,
        "commit": runs.provenance()["commit"],
        "matrix": {name: rates(tasks[name]) for name in CELLS if name in tasks},
        "more": {name: rates(found) for name, found in tasks.items() if name not in CELLS},
        "upper_bound": upper_bound(model, judges, rows, seed, bound, batch_size),
        "chance": chance(judges, rows, replies),
        "modality_accuracy": round(float(np.mean([v.modality for v in results])), 4),
        "language_loss_ratio": language_loss_ratio(model, plain) if plain else None,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if save:
        _save_examples(run / EXAMPLES, results, examples)
        runs.write_file(run / METRICS, json.dumps(metrics, indent=2) + "\n")
    return metrics


def differences(recorded: dict[str, Any], found: dict[str, Any], rows: int = 2) -> list[str]:
    """Rates that differ from a record by more than `rows` test rows, one line each.

    On one machine the same seed gives the same rates; another one rounds otherwise, and a reply may tip over.
    """
    lines = []
    for name, cell in recorded["matrix"].items():
        again = found["matrix"].get(name, {"n": 0})
        if again["n"] != cell["n"]:
            lines.append(f"{name}: {cell['n']} rows were recorded, {again['n']} measured")
            continue
        for rate in cell.keys() - {"n"}:
            asked_of = cell["n"] if rate == "modality" else cell["n"] / _SPARSE
            if abs(cell[rate] - again[rate]) * asked_of > rows:
                lines.append(f"{name} {rate}: {cell[rate]} was recorded, {again[rate]} measured")
    return lines


def table(metrics: dict[str, Any]) -> str:
    """The matrix as text: one line a cell with its rates, and the decoder's upper bound beside it."""
    lines = [f"{'cell':<16}{'n':>4}  modality  what was asked for"]
    for name, cell in metrics["matrix"].items():
        bound = metrics["upper_bound"].get(name.split("->")[1], {})
        asked = ", ".join(
            f"{a} {100 * value:.0f}%" + (f" (of {100 * bound[a]:.0f}%)" if a in bound else "")
            for a, value in cell.items()
            if a not in ("n", "modality")
        )
        lines.append(f"{name:<16}{cell['n']:>4}  {100 * cell['modality']:>7.0f}%  {asked}")
    ratio = metrics["language_loss_ratio"]
    lines.append(
        f"right modalities {100 * metrics['modality_accuracy']:.1f}%, language loss ratio {ratio}"
    )
    return "\n".join(lines)


def main() -> None:
    """Command line: evaluate a run and print its matrix."""
    parser = argparse.ArgumentParser(
        description="Measure a run on every direction of the any-to-any matrix."
    )
    parser.add_argument("--run", required=True)
    parser.add_argument(
        "--data", help="dataset whose test rows to use (default: what the run was trained on)"
    )
    parser.add_argument("--per-task", type=int, help="test rows of each task (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if the run's metrics.json says otherwise",
    )
    given = vars(parser.parse_args())
    check = given.pop("check")
    metrics = evaluate(**given, save=not check)
    print(table(metrics))
    if check:
        recorded = json.loads((resolve(given["run"]) / METRICS).read_text())
        wrong = differences(recorded, metrics)
        print("\n".join(wrong) or f"as recorded in {given['run']}/{METRICS}")
        raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
