"""Published benchmarks of generating: media made from captions, and the papers' distances to the real ones.

    anytoany benchmark generate --run RUN --benchmark coco --annotations FILE --made FOLDER
    anytoany benchmark compare --benchmark coco --annotations FILE --made FOLDER --media REAL \\
        --features inception-2015-12-05.pt --option return_features=true --clip CLIP_FOLDER

`generate` asks for one caption of every item and goes on where FOLDER/made.jsonl ends; an item without a medium in its reply
is a failure. `compare` computes what its extractors allow (see `extractors`): they are local files, none is downloaded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from anytoany_lib.benchmarks import distances, extractors
from anytoany_lib.benchmarks.annotations import Item, read_items
from anytoany_lib.benchmarks.distances import Score
from anytoany_lib.benchmarks.extractors import Extractor
from anytoany_lib.benchmarks.understanding import located, mend, settle, step_parsers
from anytoany_lib.checkpoints.publishing import run_folder
from anytoany_lib.config import portable
from anytoany_lib.data.formats.json_files import json_records
from anytoany_lib.data.rows import DataError
from anytoany_lib.data.wording import PRODUCE
from anytoany_lib.generation.replies import reply_all
from anytoany_lib.llm import pick_device
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import Message, medium_of
from anytoany_lib.model import AnyToAny
from anytoany_lib.system.files import room_for, write_json

MADE = "made.jsonl"


def caption_of(item: Item, number: int, seed: int) -> str:
    """One of an item's captions, drawn by the seed and the item's number alone."""
    return str(np.random.default_rng([seed, number]).choice(item.references))


def generate(
    model: AnyToAny, items: Sequence[Item], folder: Path, seed: int = 0, batch_size: int = 16
) -> dict[str, int]:
    """Makes a medium for every item that FOLDER/made.jsonl lacks, a batch at a time; returns what was done, by outcome.

    Lines are {"id", "caption", "file"}, or "failed" instead of "file". A medium's seed is `seed` and the item's number, so
    that an interruption changes nothing.
    """
    done = made_lines(folder) if (folder / MADE).is_file() else []
    counts = {"already there": len(done), "made": 0, "failed": 0}
    with room_for(folder / MADE), (folder / MADE).open("a", encoding="utf-8") as file:
        for start in tqdm(range(len(done), len(items), batch_size), desc="media", unit="batch"):
            batch = items[start : start + batch_size]
            captions = [caption_of(item, n, seed) for n, item in enumerate(batch, start)]
            asked = [
                [{"role": "user", "content": PRODUCE[item.kind][0].format(caption)}]
                for item, caption in zip(batch, captions, strict=True)
            ]
            replies = reply_all(model, asked, seed + start, batch_size=batch_size)
            for number, (item, caption, reply) in enumerate(
                zip(batch, captions, replies, strict=True), start
            ):
                outcome = _kept(reply, item.kind, folder, number)
                counts["failed" if "failed" in outcome else "made"] += 1
                line = {"id": item.id, "caption": caption, **outcome}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    return counts


def _kept(reply: Message, kind: str, folder: Path, number: int) -> dict[str, str]:
    """Saves the first medium of a kind in a reply: {"file"} or {"failed"}."""
    part = next((part for part in reply["content"] if part["type"] == kind), None)
    if part is None:
        return {"failed": f"no {kind} in the reply"}
    name = f"{number:06d}{media_files.SUFFIX[kind]}"
    try:
        media_files.save(kind, folder / name, medium_of(part))
    except MediaError as error:
        return {"failed": f"{error.reason}: {error.detail}"}
    return {"file": name}


def made_lines(folder: Path) -> list[dict[str, str]]:
    """The lines of FOLDER/made.jsonl. DataError if there is none or it is damaged."""
    if not (path := folder / MADE).is_file():
        raise DataError(f"{path}: no such file: make the media first (generate)")
    return list(json_records(path))


def real_paths(items: Sequence[Item], folder: Path) -> list[Path]:
    """Where the items' media lie; DataError if none is there. One that is missing fails when it is read."""
    paths = []
    for item in items:
        try:
            paths.append(located(folder, item))
        except MediaError:
            paths.append(folder / item.names[0])
    if not any(path.is_file() for path in paths):
        raise DataError(f"{folder}: none of the {len(paths)} media is there, as {paths[0].name}")
    return paths


def compare(
    kind: str,
    real: Sequence[Path],
    made: Sequence[Path],
    captions: Sequence[str],
    found: Mapping[str, Extractor],
    allow_few: bool = False,
    seed: int = 0,
) -> dict[str, Score]:
    """The metrics that the extractors named in `found` allow.

    `made[n]` was asked for by `captions[n]`, a caption of `real[n]`; more of the real media may follow.

    "features" gives the Fréchet distance, "parts" that of single frames or pieces, "logits" the Inception score and the KL
    divergence to the real media, "clip" CLIPScore or CLIPSIM, "clap" the CLAP score, "imagebind" the mean
    cosine in ImageBind's space. ValueError as in `distances`.
    """
    scores: dict[str, Score] = {}
    for name in ("features", "parts"):
        if name in found:
            pair = (found[name](kind, real), found[name](kind, made))
            label = "Frechet distance" + (", parts" if name == "parts" else "")
            scores[label] = distances.frechet_distance(*pair, allow_few)
    if "logits" in found:
        logits = found["logits"](kind, made)
        scores["Inception score"] = distances.inception_score(logits, seed=seed)
        own = found["logits"](kind, real[: len(made)])
        scores["KL divergence"] = distances.mean_kl(own, logits)
    told = {"clip": "CLIPSIM" if kind == "video" else "CLIPScore", "clap": "CLAP score"}
    told["imagebind"] = "ImageBind cosine"
    ways = {"CLIPSIM": distances.clipsim, "CLIPScore": distances.clip_score}
    for name, label in told.items():
        if name in found:
            way = ways.get(label, distances.clap_score)
            scores[label] = way(found[name](kind, made), found[name]("text", captions))
    return scores


def scores_text(scores: Mapping[str, Score]) -> str:
    """The metrics as text, with how many media each was taken of and how many failed."""
    lines = [f"{'metric':<26}{'value':>12}{'n':>8}{'failed':>8}"]
    lines += [f"{name:<26}{s.value:>12.4f}{s.n:>8}{s.failures:>8}" for name, s in scores.items()]
    return "\n".join(lines)


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE of the command line, the value as JSON."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, json.loads(value)


def _parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser, steps = step_parsers(
        {"generate": "make media of captions", "compare": "measure them"},
        "generate --run RUN --benchmark coco --annotations FILE --made FOLDER",
        "compare --benchmark coco --annotations FILE --made FOLDER --media REAL",
    )
    parser.description = __doc__.splitlines()[0]
    for command in steps.values():
        command.add_argument("--made", required=True, type=Path, help="folder of generated media")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--batch-size", type=int, default=16)
    steps["generate"].add_argument("--run", required=True)
    command = steps["compare"]
    command.add_argument("--media", required=True, type=Path, help="folder with the real media")
    command.add_argument("--features", type=Path, help="TorchScript for the Fréchet distance")
    command.add_argument("--parts", type=Path, help="the same of frames of clips, 0.96 s of sounds")
    command.add_argument("--logits", type=Path, help="TorchScript of a classifier")
    command.add_argument(
        "--option", type=_option, action="append", default=[], metavar="NAME=VALUE"
    )
    command.add_argument("--rate", type=int, default=16000, help="Hz of sounds for TorchScript")
    command.add_argument("--clip", type=Path)
    command.add_argument("--clap", type=Path)
    command.add_argument("--imagebind", type=Path)
    command.add_argument("--allow-few", action="store_true", help="fewer media than features wide")
    command.add_argument("--out", type=Path, help="a JSON file for the numbers")
    return parser


def _extractors(given: argparse.Namespace) -> dict[str, Extractor]:
    """What the command line names, by the names that `compare` knows. DataError if it names nothing."""
    device, size = str(pick_device()), given.batch_size
    found: dict[str, Extractor] = {}
    for name in ("features", "parts", "logits"):
        if file := getattr(given, name):
            # Features and logits come from one network by its options, which only features take.
            options = {} if name == "logits" else dict(given.option)
            found[name] = extractors.torchscript(file, device, given.rate, size, options)
    if "parts" in found:
        found["parts"] = extractors.of_parts(found["parts"])
    for name in ("clip", "clap", "imagebind"):
        if path := getattr(given, name):
            found[name] = getattr(extractors, name)(path, device, size)
    if not found:
        raise DataError("name what extracts features: --features, --logits, --clip, --clap, ...")
    return found


def _generate(given: argparse.Namespace, items: Sequence[Item]) -> None:
    """The command `generate`."""
    run = run_folder(given.run)
    settings = {"run": portable(run), "benchmark": given.benchmark, "seed": given.seed}
    settings |= {"annotations": given.annotations.name, "split": given.split}
    given.made.mkdir(parents=True, exist_ok=True)
    settle(given.made / MADE, settings)
    mend(given.made / MADE)
    model = AnyToAny.from_pretrained(run)
    done = generate(model, items, given.made, given.seed, given.batch_size)
    print(f"{given.made}: " + ", ".join(f"{count} {what}" for what, count in done.items()))


def _compare(given: argparse.Namespace, items: Sequence[Item]) -> None:
    """The command `compare`."""
    found, lines = _extractors(given), made_lines(given.made)
    left = {item.id: item for item in items}
    if unknown := [line["id"] for line in lines if line["id"] not in left]:
        raise DataError(f"{given.made / MADE}: {unknown[0]} is no item of {given.annotations}")
    paired = [left.pop(line["id"]) for line in lines]
    paths = [given.made / line.get("file", "failed") for line in lines]
    captions = [line["caption"] for line in lines]
    real = real_paths([*paired, *left.values()], given.media)
    scores = compare(items[0].kind, real, paths, captions, found, given.allow_few, given.seed)
    print(scores_text(scores))
    result = {"benchmark": given.benchmark, "n": len(lines), "seed": given.seed}
    result["metrics"] = {name: score._asdict() for name, score in scores.items()}
    print(json.dumps(result, ensure_ascii=False))
    if given.out:
        write_json(given.out, result)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: generate media, or compare them with real ones."""
    given = _parser().parse_args(arguments)
    items = read_items(given.benchmark, given.annotations, given.split)[: given.limit]
    (_generate if given.command == "generate" else _compare)(given, items)
