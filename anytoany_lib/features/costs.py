"""What the features of a dataset cost: kept on disk, or computed in every training step.

Both follow from counts, which are exact, and from the seconds that a few items of each sort take on this machine.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anytoany_lib.config import Profile
from anytoany_lib.data.rows import Row
from anytoany_lib.features.contents import contents_to_embed, needs_of, rows_to_embed
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.frozen_models import FrozenModels
from anytoany_lib.llm import pick_device
from anytoany_lib.system import terminal
from anytoany_lib.system.remote import local

SAMPLED = 16


@dataclass
class Costs:
    """What a table shows: `caches` has a row for each sort of content, `stages` one for each stage."""

    caches: list[dict[str, Any]]
    stages: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"{terminal.table(self.caches)}\n\n{terminal.table(self.stages)}"


def estimate_costs(profile: Profile, data: str | Path, sampled: int = SAMPLED) -> Costs:
    """What the features of a dataset cost on disk, to fill, and on the fly, after trying `sampled` items of each sort."""
    store = DatasetFeatures(profile, local(data))
    caches, each = _caches(store, FrozenModels(profile, pick_device()), sampled)
    uses = _uses(rows_to_embed(store.data))
    stages = []
    for number, stage in profile.stages.items():
        count, items = uses[stage.reads]
        if count:
            latents = stage.denoising_weight > 0
            computed = {
                s: n for s, n in items.items() if n and (latents or not s.endswith("latents"))
            }
            size = stage.rows_a_step
            step = size * sum(n * each[sort] for sort, n in computed.items()) / count
            stages.append(_computed(number, size, step, stage.steps_of(count)))
    return Costs(caches, stages)


def _caches(
    store: DatasetFeatures, models: FrozenModels, sampled: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row for each sort of content that training needs, and the seconds that one of each sort takes."""
    needed = contents_to_embed(store.profile, store.data)
    caches, each = [], {}
    for kind, paths in needed.media.items():
        files = [store.data / path for path in paths]
        if files:
            each[f"{kind}s"] = _seconds_each(files, partial(models.media_files, kind), sampled)
            lacking = store.lacking_media(list(paths))
            caches.append(_cached(f"{kind}s", len(files), len(lacking), store.encoder.shape, each))
    for kind, captions in needed.captions.items():
        texts = list(captions)
        if texts:
            sort, shape = f"{kind} captions", store.captions[kind].shape
            each[sort] = _seconds_each(texts, partial(models.captions, kind), sampled)
            lacking = store.lacking_captions(kind, texts)
            caches.append(_cached(sort, len(texts), len(lacking), shape, each))
    for kind, cache in store.latents.items():
        files = [store.data / path for path in needed.targets[kind]]
        if files:
            sort = f"{kind} latents"
            each[sort] = _seconds_each(files, partial(models.latents_of_files, kind), sampled)
            lacking = store.lacking_latents(kind, list(needed.targets[kind]))
            caches.append(_cached(sort, len(files), len(lacking), cache.shape, each))
    return caches, each


def _seconds_each(items: Sequence[Any], embed: Callable[[Sequence[Any]], Any], most: int) -> float:
    """Seconds an item, of a few spread over all; the first one, which loads the model, does not count."""
    embed(items[:1])
    chosen = items[:: math.ceil(len(items) / most)]
    started = time.perf_counter()
    embed(chosen)
    return (time.perf_counter() - started) / len(chosen)


def _cached(
    sort: str, rows: int, lacking: int, shape: tuple[int, ...], each: dict[str, float]
) -> dict[str, Any]:
    return {
        "cache": sort,
        "rows": rows,
        "lacking": lacking,
        "shape": " x ".join(map(str, shape)),
        "MB on disk": f"{rows * math.prod(shape) * 2 / 1e6:,.1f}",
        "ms each": f"{each[sort] * 1e3:.1f}",
        "s to fill": f"{lacking * each[sort]:,.1f}",
    }


def _computed(number: int, batch: int, step: float, steps: int) -> dict[str, Any]:
    return {
        "on the fly": f"stage {number}",
        "rows a step": batch,
        "s a step": f"{step:.3f}",
        "steps": steps,
        "s in all": f"{step * steps:,.1f}",
    }


def _uses(rows: Iterable[Row]) -> dict[str, tuple[int, Counter[str]]]:
    """For what each stage reads: how many rows there are, and how many items of each sort they hold together."""
    counts: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    generated: Counter[str] = Counter()
    in_talks: Counter[str] = Counter()
    for row in rows:
        captioned = "caption" in row.meta
        counts["captioned" if captioned else "talks"] += 1
        for sort, kind, _ in needs_of(row):
            name = f"{kind}s" if sort == "media" else f"{kind} {sort}"
            of_captioned = shown if sort == "media" else generated
            (of_captioned if captioned else in_talks)[name] += 1
    media = counts["captioned"]
    # Without a conversation stage 3 asks for captioned media in either direction.
    talks = (counts["talks"], in_talks) if counts["talks"] else (2 * media, shown + generated)
    return {
        "comprehension": (media, shown),
        "generation": (media, generated),
        "instructions": talks,
    }
