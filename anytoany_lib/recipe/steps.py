"""A recipe from its first step to its last: models, datasets, features, three stages, measuring.

Each step leaves a record in OUT/recipe.json when it is done, and is not done again; within a step what was done is kept by the
step's own means: files that came, datasets that are whole, cached features, checkpoints, replies. So a killed recipe goes on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anytoany_lib.benchmarks.annotations import read_items
from anytoany_lib.checkpoints.fetching import fetch
from anytoany_lib.config import Profile
from anytoany_lib.data import build, read_manifest
from anytoany_lib.data.rows import media_in
from anytoany_lib.features.precomputing import precompute
from anytoany_lib.recipe.joining import Chosen, join, names_of
from anytoany_lib.recipe.measuring import ANNOTATIONS, MEASURES, UNMEASURED
from anytoany_lib.recipe.plan import Plan
from anytoany_lib.recipe.settings import Recipe
from anytoany_lib.system.files import held, read_json, write_json
from anytoany_lib.train import train
from anytoany_lib.training.checkpoint import newest

RECORD = "recipe.json"


@dataclass(frozen=True)
class Work:
    """What the steps of a recipe are given: settings, plan, where the data are and where results go."""

    profile: Profile
    recipe: Recipe
    plan: Plan
    sources: Path
    out: Path
    seed: int = 0
    trusted: bool = False

    @property
    def data(self) -> Path:
        """The joined dataset."""
        return self.out / "data"

    def run(self, stage: int) -> Path:
        """The run folder of a stage."""
        return self.out / "runs" / f"stage{stage}"

    def fingerprint(self) -> str:
        """16 hex digits that name the settings: records of other ones are not gone on with."""
        told = f"{self.profile.model_dump_json()} {self.recipe.model_dump_json()} {self.plan.taken} {self.seed}"
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


Step = Callable[[], Mapping[str, Any]]


def steps(work: Work) -> Iterator[tuple[str, Step]]:
    """The steps by name, in order; each returns what its record says."""
    yield "models", lambda: {"fetched": sorted(fetch(work.profile, work.trusted))}
    for name in work.recipe.data:
        yield f"data {name}", partial(_built, work, name)
    yield "dataset", lambda: {"rows": join(work.recipe, _chosen(work), work.data, work.seed)}
    yield "features", partial(precompute, work.profile, work.data)
    for number in sorted(work.profile.stages):
        yield f"stage {number}", partial(_trained, work, number)
    last = work.run(max(work.profile.stages))
    for name, measure in MEASURES.items():
        yield f"measuring {name}", partial(measure, last, work.data, work.sources)


def cook(work: Work, told: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
    """Does what is left of a recipe; returns the records of all steps.

    ValueError if OUT was begun with other settings. Whatever ends it, the same call goes on there.
    """
    work.out.mkdir(parents=True, exist_ok=True)
    with held(work.out, "follows a recipe in it"):
        record = _opened(work)
        done = record["steps"]
        for name, step in steps(work):
            if name in done and UNMEASURED not in done[name]:
                told(f"{name}: done before")
                continue
            told(f"{name} ...")
            started = time.perf_counter()
            found = step()
            done[name] = {"seconds": round(time.perf_counter() - started, 1), **found}
            write_json(work.out / RECORD, record)
            told(f"{name}: {done[name]['seconds']:.0f} s")
        return done


def _opened(work: Work) -> dict[str, Any]:
    """The record so far. ValueError if it is of other settings."""
    file, settings = work.out / RECORD, work.fingerprint()
    if not file.is_file():
        return {
            "recipe": work.recipe.name,
            "profile": work.profile.name,
            "settings": settings,
            "steps": {},
        }
    record = read_json(file)
    if not isinstance(record, dict) or record.get("settings") != settings:
        raise ValueError(
            f"{file}: the recipe there was begun with other settings (profile, recipe, hours, card or seed): go on with those, "
            "or name another --out"
        )
    return record


def _built(work: Work, name: str) -> dict[str, Any]:
    """A data set as a manifest of its own; one that is whole already is not built again."""
    out = work.out / "sets" / name
    if not (out / "report.json").is_file():
        reader = work.recipe.data[name].reader
        build(reader, work.sources / name, out, seed=work.seed, link=True)
    report = read_json(out / "report.json")
    return {"kept": report["kept"], "dropped": report["dropped"]}


def _chosen(work: Work) -> dict[str, Chosen]:
    found = {}
    for name, data in work.recipe.data.items():
        left_out = _test_media(work, data.leave_out) if data.leave_out else frozenset()
        rows, requests = work.plan.taken[name], work.plan.requests[name]
        found[name] = Chosen(work.out / "sets" / name, rows, requests, left_out)
    return found


def _test_media(work: Work, name: str) -> frozenset[str]:
    """What the test media of a benchmark, or of a data set that is built, are called (see `names_of`)."""
    if name in work.recipe.benchmarks:
        items = read_items(name, work.sources / name / ANNOTATIONS[name])
        return frozenset(own for item in items for own in names_of(item.names[0]))
    rows = read_manifest(work.out / "sets" / name, "test")
    return frozenset(
        own for row in rows for _, path in media_in(row.messages) for own in names_of(path)
    )


def _trained(work: Work, stage: int) -> dict[str, Any]:
    """A stage, from its newest checkpoint if it has one."""
    run = work.run(stage)
    earlier = [number for number in work.profile.stages if number < stage]
    resume = newest(run) is not None
    init = work.run(max(earlier)) if earlier else None
    train(work.profile, stage, work.data, run, init, resume=resume, seed=work.seed)
    return {"run": str(run), "steps": read_json(run / "run.json")["steps"]}
