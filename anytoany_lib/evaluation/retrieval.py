"""How well a run tells captioned media apart: what there is to measure where no judge knows the data.

    anytoany retrieval --run RUN --data DATA [--split test]

Every medium is described by the model, and the description compared with the captions of all media of its kind. Every
caption is asked for, and what the reply's signals are projected to is compared with the decoder's targets for all captions.
Right is whose own is nearest. Written to RUN/retrieval.json.
"""

import json
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytoany_lib.checkpoints.publishing import run_to_measure
from anytoany_lib.config import portable
from anytoany_lib.data.manifests import SPLITS, read_manifest
from anytoany_lib.data.rows import Row, as_comprehension, as_generation
from anytoany_lib.decoders.adapters import CaptionEncoder
from anytoany_lib.generation.replies import draw_all
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import terminal
from anytoany_lib.system.files import write_json
from anytoany_lib.system.remote import local, publish

RETRIEVAL = "retrieval.json"


def likeness(one: str, other: str) -> float:
    """Share of matching characters, in order, of two texts regardless of case: 0 to 1 (difflib's ratio)."""
    return SequenceMatcher(None, one.lower(), other.lower(), autojunk=False).ratio()


def caption_ranks(said: Sequence[str], captions: Sequence[str]) -> list[int]:
    """For every description the place of its own caption among all, 1 the likest; equal captions share their place."""
    ranks = []
    for text, own in zip(said, captions, strict=True):
        nearer = {c for c in captions if c != own and likeness(text, c) >= likeness(text, own)}
        ranks.append(1 + len(nearer))
    return ranks


def target_ranks(conditions: Sequence[torch.Tensor | None], targets: torch.Tensor) -> list[int]:
    """For each condition its own target's place among all (N, *condition), by the alignment loss's L2: 1 the nearest; None last."""
    ranks = []
    for condition, own in zip(conditions, targets, strict=True):
        if condition is None:
            ranks.append(len(targets))
            continue
        norms = torch.linalg.vector_norm(targets - condition, dim=-1)  # (N,) or (N, positions)
        distances = norms.reshape(len(targets), -1).mean(1)
        mine = torch.linalg.vector_norm(own - condition, dim=-1).mean()
        same = (targets == own).flatten(1).all(1)
        ranks.append(1 + int(((distances <= mine) & ~same).sum()))
    return ranks


def _nearest(ranks: Sequence[int]) -> float:
    return round(float(np.mean([rank == 1 for rank in ranks])), 4)


def _targets(model: AnyToAny, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Of each kind that the profile has a decoder for, what that wants for the captions of the rows: (N, *condition)."""
    return {
        kind: CaptionEncoder(config, model.device)(
            [row.meta["caption"] for row in rows if row.meta["kind"] == kind]
        ).cpu()
        for kind, config in model.profile.decoders.items()
        if any(row.meta["kind"] == kind for row in rows)
    }


def retrieval_rates(
    model: AnyToAny, rows: Sequence[Row], seed: int = 0, batch_size: int = 16
) -> dict[str, dict[str, Any]]:
    """Rates of each kind of medium among captioned rows, whose media are paths that can be read.

    "caption": own caption nearest to what was said; "modality": asked for, exactly this kind came; "target": own target
    nearest to the condition that came.
    """
    results = {}
    # Before anything is drawn: they fail where a decoder is missing or another one.
    targets = _targets(model, rows)
    for kind in dict.fromkeys(row.meta["kind"] for row in rows):
        of_kind = [row for row in rows if row.meta["kind"] == kind]
        rng = np.random.default_rng(seed)
        captions = [row.meta["caption"] for row in of_kind]
        shown = [as_comprehension(row, rng)[:1] for row in of_kind]
        described = draw_all(model, shown, seed, Sampling(kinds=()), batch_size)
        found: dict[str, Any] = {"n": len(of_kind)}
        found["caption"] = _nearest(caption_ranks([draft.text() for draft in described], captions))
        if kind in model.profile.decoders:
            asked = [as_generation(row, rng)[:1] for row in of_kind]
            made = draw_all(model, asked, seed, Sampling(), batch_size)
            kinds = [[p["type"] for p in draft.parts if p["type"] != "text"] for draft in made]
            parts = (next((p for p in draft.parts if p["type"] == kind), {}) for draft in made)
            conditions = [part.get("condition") for part in parts]
            found["modality"] = round(float(np.mean([k == [kind] for k in kinds])), 4)
            found["target"] = _nearest(target_ranks(conditions, targets[kind]))
        results[kind] = found
    return results


def captioned(data: Path, split: str) -> list[Row]:
    """The rows of a split that are media with captions, with full paths. ValueError if there are none."""
    manifest = read_manifest(data, split)
    rows = [manifest.resolved(row) for row in manifest if "caption" in row.meta]
    if not rows:
        raise ValueError(f"{data}: its {split} split has no media with captions")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure a run and write RUN/retrieval.json."""
    parser = terminal.parser(
        "retrieval", __doc__.splitlines()[0], "--run ckpt/runs/tiny/stage3 --data data/toy"
    )
    parser.add_argument("--run", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args(arguments)
    run, data = run_to_measure(options.run), local(options.data)
    rows = captioned(data, options.split)
    model = AnyToAny.from_pretrained(run)
    found = retrieval_rates(model, rows, options.seed, options.batch_size)
    record = {"data": portable(data), "split": options.split, "seed": options.seed, "kinds": found}
    write_json(run / RETRIEVAL, record)
    publish(run)
    print(json.dumps(found, indent=2))
