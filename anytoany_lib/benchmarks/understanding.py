"""Published benchmarks of describing and answering: a run's predictions, and the papers' numbers from them.

    anytoany benchmark predict --run RUN --benchmark coco --annotations FILE --media FOLDER --predictions P.jsonl
    anytoany benchmark score --benchmark coco --annotations FILE --predictions P.jsonl

Predictions are JSON lines {"id", "text"}, of whatever program; `predict` goes on where a file ends. A medium that cannot be
read is an empty prediction with the reason under "failed": it scores 0 and is counted. `annotations` lists the
benchmarks, docs/REPRODUCE.md the tables they belong to.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from anytoany_lib.benchmarks import java_metrics
from anytoany_lib.benchmarks.annotations import BENCHMARKS, Item, read_items
from anytoany_lib.benchmarks.caption_metrics import caption_scores, tokenize_all
from anytoany_lib.benchmarks.vqa import vqa_scores
from anytoany_lib.checkpoints.publishing import run_folder
from anytoany_lib.config import portable
from anytoany_lib.data.rows import DESCRIBE, SHORT_ANSWER, DataError, media_path
from anytoany_lib.generation.replies import draw_all
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import Message
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import terminal
from anytoany_lib.system.files import room_for, write_file, write_json

_NAMED = 5  # ids in a message


def located(folder: Path, item: Item) -> Path:
    """Where an item's medium lies in a folder. MediaError "missing" if under none of its names."""
    for name in item.names:
        if (path := media_path(folder, name)).is_file():
            return path
    raise MediaError("missing", "no such file", item.names[0])


def _conversation(item: Item, folder: Path, prompt: str | None) -> list[Message]:
    """What the model is asked about an item. MediaError if its medium cannot be used."""
    medium = media_files.as_media(item.kind, located(folder, item))
    text = f"{item.question}\n{prompt or SHORT_ANSWER}" if item.question else prompt
    parts = [{"type": item.kind, item.kind: medium}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def predict(
    model: AnyToAny,
    items: Sequence[Item],
    folder: Path,
    predictions: Path,
    prompt: str | None = None,
    batch_size: int = 16,
) -> dict[str, int]:
    """Describes or answers every item that a predictions file lacks, a batch at a time; returns what was done, by outcome.

    Text is the likeliest, word by word: there is no seed. `prompt` asks for the description (default: the first of
    `building.DESCRIBE`), or follows the question. DataError if no medium at all lies in the folder.
    """
    done = read_predictions(predictions) if predictions.is_file() else {}
    left = [item for item in items if item.id not in done]
    prompt = prompt or ("" if items[0].question else DESCRIBE[items[0].kind][0])
    counts = {"already there": len(items) - len(left), "described": 0, "failed": 0}
    if left and not any((folder / name).is_file() for item in items for name in item.names):
        raise DataError(
            f"{folder}: none of the {len(items)} media is there, as {items[0].names[0]}"
        )
    starts = tqdm(range(0, len(left), batch_size), desc="predictions", unit="batch")
    batches = (_batch(model, left[n : n + batch_size], folder, prompt) for n in starts)
    append_lines(predictions, batches, counts, "described")
    return counts


def append_lines(
    path: Path, batches: Iterable[list[dict[str, str]]], counts: dict[str, int], done: str
) -> None:
    """Appends lines to a file that grows, a batch at a time, and counts what is `done` and what "failed"."""
    with room_for(path), path.open("a", encoding="utf-8") as file:
        for batch in batches:
            for line in batch:
                counts["failed" if "failed" in line else done] += 1
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()


def _batch(
    model: AnyToAny, items: Sequence[Item], folder: Path, prompt: str
) -> list[dict[str, str]]:
    """The lines of a batch of items, in their order."""
    asked: dict[str, list[Message]] = {}
    failed: dict[str, str] = {}
    for item in items:
        try:
            asked[item.id] = _conversation(item, folder, prompt)
        except MediaError as error:
            failed[item.id] = f"{error.reason}: {error.detail}"
    sampling = Sampling(kinds=())
    drafts = draw_all(model, list(asked.values()), 0, sampling, len(asked)) if asked else []
    texts = {name: draft.text() for name, draft in zip(asked, drafts, strict=True)}
    return [
        {"id": item.id, "text": texts.get(item.id, "")}
        | ({"failed": failed[item.id]} if item.id in failed else {})
        for item in items
    ]


def mend(predictions: Path) -> None:
    """Takes away a last line that a kill cut off in the middle."""
    if predictions.is_file() and not (content := predictions.read_bytes()).endswith(b"\n"):
        write_file(predictions, content[: content.rfind(b"\n") + 1].decode("utf-8"))


def read_predictions(path: Path) -> dict[str, dict[str, str]]:
    """The lines of a predictions file by id. DataError, naming the line, for one that is no {"id", "text"} or comes again."""
    found: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                name, text = str(record["id"]), record["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}: expected id and text: {error!r}"
                ) from error
            if not isinstance(text, str):
                raise DataError(f"{path}, line {number}: the text is no text: {text!r}")
            if name in found:
                raise DataError(f"{path}, line {number}: {name} was predicted before")
            found[name] = record
    return found


def _named(ids: Sequence[str]) -> str:
    """The first ids and how many more there are."""
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


def matched(
    items: Sequence[Item], predictions: Mapping[str, dict[str, str]], missing_as_empty: bool = False
) -> dict[str, str]:
    """The text of every item. DataError for predictions of no item, and for items without one unless they count as empty."""
    ids = [item.id for item in items]
    if unknown := [name for name in predictions if name not in set(ids)]:
        raise DataError(f"{len(unknown)} predictions for ids that are not there: {_named(unknown)}")
    absent = [name for name in ids if name not in predictions]
    if absent and not missing_as_empty:
        raise DataError(
            f"{len(absent)} of {len(ids)} items have no prediction: {_named(absent)} "
            "(--missing-as-empty scores them as empty)"
        )
    return {name: predictions[name]["text"] if name in predictions else "" for name in ids}


def score(
    items: Sequence[Item],
    predictions: Mapping[str, dict[str, str]],
    corpus: Sequence[Item] | None = None,
    missing_as_empty: bool = False,
    tokenizer: str = "python",
    java: Sequence[str] = (),
) -> dict[str, Any]:
    """The benchmark's metrics, and how many predictions are empty or failed.

    `corpus` is the whole split, by which CIDEr-D knows what is rare, where `items` are some of it. `java` names METEOR and
    SPICE; the tokenizer is "python" or "java".
    """
    texts = matched(items, predictions, missing_as_empty)
    references = {item.id: item.references for item in corpus or items}
    if items[0].question:
        types = {item.id: item.answer_type for item in items}
        metrics = vqa_scores(texts, references, types)
    else:
        cut = java_metrics.tokenize if tokenizer == "java" else tokenize_all
        metrics = caption_scores(texts, references, cut, java)
    return {
        "n": len(items),
        "empty": sum(not text.strip() for text in texts.values()),
        "failed": sum("failed" in record for record in predictions.values()),
        "metrics": metrics,
    }


def result_text(result: Mapping[str, Any]) -> str:
    """The metrics as text, beside each what papers print (100 times as much)."""
    lines = [f"{'metric':<26}{'value':>9}{'x 100':>9}"]
    lines += [f"{name:<26}{v:>9.4f}{100 * v:>9.2f}" for name, v in result["metrics"].items()]
    lines.append(f"n {result['n']}, empty {result['empty']}, failed {result['failed']}")
    return "\n".join(lines)


def settle(predictions: Path, settings: dict[str, Any]) -> None:
    """Notes beside a file that grows what makes it; DataError if it was begun in another way."""
    path = predictions.with_suffix(".settings.json")
    if predictions.is_file() and path.is_file():
        before = json.loads(path.read_text())
        if differ := [key for key, value in settings.items() if before.get(key) != value]:
            told = ", ".join(f"{key}: {before.get(key)!r}, not {settings[key]!r}" for key in differ)
            raise DataError(f"{predictions} was begun with {told}; choose another place")
    write_json(path, settings)


def step_parsers(
    steps: Mapping[str, str], *examples: str
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of `anytoany benchmark` with some of its steps ({name: what it does}), and those by name: each knows which items."""
    parser = terminal.parser("benchmark", __doc__.splitlines()[0], *examples)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in steps.items():
        command = commands.add_parser(name, help=purpose)
        command.add_argument("--benchmark", required=True, choices=BENCHMARKS)
        command.add_argument("--annotations", required=True, type=Path)
        command.add_argument("--split", help="of files with several (default: the published test)")
        command.add_argument("--limit", type=int, help="only that many items, from the beginning")
    return parser, commands.choices


def _parser() -> argparse.ArgumentParser:
    parser, steps = step_parsers(
        {"predict": "describe or answer", "score": "score predictions"},
        "predict --run RUN --benchmark vqav2 --annotations FILE --media FOLDER --predictions P.jsonl",
        "score --benchmark vqav2 --annotations FILE --predictions P.jsonl",
    )
    for command in steps.values():
        command.add_argument("--questions", type=Path, help="VQAv2: its questions file")
        command.add_argument("--predictions", required=True, type=Path, help="JSON lines: id, text")
    command = steps["predict"]
    command.add_argument("--run", required=True)
    command.add_argument("--media", required=True, type=Path, help="folder with the media")
    command.add_argument("--prompt", help="what to ask (VQAv2: what follows the question)")
    command.add_argument("--batch-size", type=int, default=16)
    command = steps["score"]
    command.add_argument("--missing-as-empty", action="store_true")
    command.add_argument("--tokenizer", choices=("python", "java"), default="python")
    command.add_argument("--java", nargs="*", default=(), choices=("METEOR", "SPICE"))
    command.add_argument("--out", type=Path, help="a JSON file for the numbers")
    return parser


def model_for(given: argparse.Namespace, path: Path, **how: Any) -> AnyToAny:
    """The model of the command line's run, once `how` it is used is noted beside the file that grows, and that is mended."""
    run = run_folder(given.run)
    settings = {"run": portable(run), "benchmark": given.benchmark, **how}
    path.parent.mkdir(parents=True, exist_ok=True)
    settle(path, settings | {"annotations": given.annotations.name, "split": given.split})
    mend(path)
    return AnyToAny.from_pretrained(run)


def counts_text(counts: Mapping[str, int]) -> str:
    """What was done, by outcome: "3 already there, 2 made, 0 failed"."""
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _predict(given: argparse.Namespace, items: Sequence[Item]) -> None:
    model = model_for(given, given.predictions, prompt=given.prompt)
    done = predict(model, items, given.media, given.predictions, given.prompt, given.batch_size)
    print(f"{given.predictions}: {counts_text(done)}")


def _score(given: argparse.Namespace, items: Sequence[Item], corpus: Sequence[Item]) -> None:
    predictions = read_predictions(given.predictions)
    how = (given.missing_as_empty, given.tokenizer, given.java)
    result = {"benchmark": given.benchmark} | score(items, predictions, corpus, *how)
    print(result_text(result))
    print(json.dumps(result))
    if given.out:
        write_json(given.out, result)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: predict texts, or score them."""
    given = _parser().parse_args(arguments)
    corpus = read_items(given.benchmark, given.annotations, given.split, given.questions)
    items = corpus[: given.limit]
    if not items:
        raise DataError(f"--limit {given.limit} leaves no item")
    if given.command == "predict":
        _predict(given, items)
    else:
        _score(given, items, corpus)
