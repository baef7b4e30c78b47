"""What a recipe takes on a card, before anything is fetched: rows, batches, steps, hours, memory and disk.

All of it is planned, by the memory plan and by `rates`. What takes time with the data shrinks until it fits the hours: of every
data set the same part is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from anytoany_lib.config import Profile
from anytoany_lib.data.building import UNPACKING
from anytoany_lib.data.rows import DESCRIBE
from anytoany_lib.memory import planning
from anytoany_lib.memory.preflight import for_card, room_needed, unfetched
from anytoany_lib.recipe import rates
from anytoany_lib.recipe.settings import PublicData, Recipe
from anytoany_lib.system import terminal

BATCHES = (64, 32, 16, 8, 4, 2, 1)
# The chat template around a question and its answer, and the words of a caption (CC3M, WebVid: bench/scale.py).
_FRAME, _CAPTION, _TOKENS_A_WORD = 14, 16, 4 / 3
_LEARNT = 0.5  # of a conversation's tokens: assumed
_LONGER = 1.5  # a batch of long rows, beside the mean: assumed
_USABLE = 15 / 16  # of a card's memory, as of a card of 16 GB
_MEASURING = 2 * 3600.0  # benchmarks, and some hundred media drawn: assumed
_BUILDING = 100e6  # bytes of media a second that are opened, checked and placed: assumed
_RUNS = 10 * 10**9  # three runs with their checkpoints
_SPARE = 0.95  # of the hours: start-up, fits and checkpoints are in no plan
_LEAST = 0.02  # of the data: less is no training
HOUR = 3600.0
DATA = "data, packed and unpacked"


@dataclass(frozen=True)
class StagePlan:
    """A stage: its rows and their tokens (mean), rows at once and batches a step, steps, seconds a batch, bytes at the peak."""

    rows: int
    tokens: float
    batch: int
    accumulation: int
    steps: int
    seconds: float
    peak: int

    @property
    def hours(self) -> float:
        """Of all steps."""
        return self.steps * self.accumulation * self.seconds / HOUR


@dataclass(frozen=True)
class Plan:
    """What is planned. `taken` are the rows of each data set, `part` of what the recipe asks for; `hours` and `disk` by work."""

    part: float
    taken: dict[str, int]
    requests: dict[str, int]
    stages: dict[int, StagePlan]
    hours: dict[str, float]
    disk: dict[str, int]


def card_bytes(gigabytes: float) -> int:
    """What can be used of a card's memory."""
    return round(gigabytes * 1e9 * _USABLE)


def too_small(profile: Profile, gigabytes: float) -> str:
    """Why a profile does not fit a card at one row a batch, and which one does; "" if it fits."""
    single = _with_batches(unfetched(profile), 1)
    lines = planning.advice(single, planning.plan_memory(single), card_bytes(gigabytes))
    if not lines:
        return ""
    other = for_card(gigabytes)
    instead = f"take --profile {other}" if other else "no profile of the kit fits such a card"
    return f"{profile.name} does not fit a card of {gigabytes:g} GB: {lines[0]}; {instead}"


def _with_batches(profile: Profile, batch: int) -> Profile:
    stages = {n: s.model_copy(update={"batch_size": batch}) for n, s in profile.stages.items()}
    return profile.model_copy(update={"stages": stages})


def make_plan(
    profile: Profile, recipe: Recipe, card: rates.Card, gigabytes: float, hours: float
) -> Plan:
    """The plan of a recipe on a card of so many gigabytes, within so many hours.

    It is the same before and after the models are fetched. ValueError if a stage does not fit the card, or the hours are too few
    for anything.
    """
    profile = unfetched(profile)
    whole = _stages(profile, recipe, card, gigabytes, 1.0)
    fixed = {"fetching": _fetched(profile, recipe) / (recipe.megabytes_a_second * 1e6) / HOUR}
    fixed["measuring"] = _MEASURING / HOUR
    growing = {"building": sum(d.gigabytes for d in recipe.data.values()) * 1e9 / _BUILDING / HOUR}
    growing["features"] = _looking(profile, recipe, card) / HOUR
    growing |= {f"stage {number}": stage.hours for number, stage in whole.items()}
    left = _SPARE * hours - sum(fixed.values())
    part = min(1.0, left / sum(growing.values()))
    if part < _LEAST:
        raise ValueError(
            f"{hours:g} hours are too few: fetching and measuring alone take {sum(fixed.values()):.1f} h, and all the data "
            f"{sum(growing.values()):.1f} h more on {card.name}; give more --hours, or take a smaller profile"
        )
    taken = {name: max(1, round(part * data.rows)) for name, data in recipe.data.items()}
    requests = {name: round(part * data.requests) for name, data in recipe.data.items()}
    return Plan(
        part,
        taken,
        requests,
        _stages(profile, recipe, card, gigabytes, part),
        fixed | {name: part * one for name, one in growing.items()},
        _disk(profile, recipe, part),
    )


def planned_profile(profile: Profile, plan: Plan) -> Profile:
    """The profile with the plan's batches and steps; in stage 3 plain talk is held to the untouched language model's."""
    stages = {}
    for number, stage in profile.stages.items():
        one = plan.stages[number]
        changes: dict[str, Any] = {"batch_size": one.batch, "accumulation": one.accumulation}
        changes |= {"steps": one.steps, "epochs": None}
        if stage.reads == "instructions":
            changes["divergence_weight"] = stage.divergence_weight or 1.0
        stages[number] = stage.model_copy(update=changes)
    return profile.model_copy(update={"stages": stages})


def _stages(
    profile: Profile, recipe: Recipe, card: rates.Card, gigabytes: float, part: float
) -> dict[int, StagePlan]:
    """The plan of every stage where such a part of the data is taken."""
    batches = _batches(profile, recipe, card_bytes(gigabytes))
    stages = {}
    for number, stage in profile.stages.items():
        batch, peak = batches[number]
        rows, every, learnt = _rows(profile, recipe, stage.reads)
        count, a_step = max(1, round(part * rows)), recipe.rows_a_step[number]
        accumulation = max(1, a_step // batch)
        seconds = rates.seconds(profile, number, card, batch * every, batch * learnt)
        steps = math.ceil(count / (batch * accumulation))
        stages[number] = StagePlan(count, every, batch, accumulation, steps, seconds, peak)
    return stages


def _batches(profile: Profile, recipe: Recipe, card: int) -> dict[int, tuple[int, int]]:
    """{stage: (the most rows at once that fit the card, bytes at the peak)}. ValueError if one row does not."""
    found: dict[int, tuple[int, int]] = {}
    for number, stage in profile.stages.items():
        tokens = math.ceil(_LONGER * _rows(profile, recipe, stage.reads)[1])
        for batch in (b for b in BATCHES if b <= recipe.rows_a_step[number]):
            peak = _peak(_with_batches(profile, batch).model_dump_json(), number, tokens)
            if peak <= card:
                found[number] = batch, peak
                break
        else:
            raise ValueError(
                f"stage {number} of {profile.name} takes {peak / 1e9:.1f} GB at one row, of the card {card / 1e9:.1f} can be "
                "used: take a smaller profile"
            )
    return found


@cache
def _peak(settings: str, stage: int, tokens: int) -> int:
    """Bytes at the peak of a stage of a profile, which is given as JSON."""
    phases = planning.plan_memory(Profile.model_validate_json(settings), tokens)
    return planning.peak(phases[f"stage {stage}"])


def _rows(profile: Profile, recipe: Recipe, reads: str) -> tuple[int, float, float]:
    """(rows, their mean tokens, how many of them are learnt) of what a stage reads."""
    counted = list(_counted(profile, recipe, reads))
    rows = sum(count for count, _, _ in counted)
    if not rows:
        raise ValueError(f"recipe {recipe.name}: it has no data for {reads}")
    every, learnt = (sum(one[0] * one[at] for one in counted) / rows for at in (1, 2))
    return rows, every, learnt


def _counted(profile: Profile, recipe: Recipe, reads: str) -> Iterator[tuple[int, float, float]]:
    """(rows, tokens, tokens learnt) of each data set that a stage reads."""
    asked = _TOKENS_A_WORD * float(
        np.mean([len(text.split()) for texts in DESCRIBE.values() for text in texts])
    )
    medium = profile.encoder.soft_tokens + len(profile.wrappers)
    for data in recipe.data.values():
        signals = [
            profile.decoders[kind].signals for kind in data.kinds if kind in profile.decoders
        ]
        made = _FRAME + asked + _CAPTION + max(signals, default=0)
        if reads == "instructions":
            if data.use == "talks":
                shown = _FRAME + len(data.kinds) * medium
                yield data.rows, shown + data.tokens, _LEARNT * data.tokens
            if data.requests:
                yield data.requests, made, 1
        elif data.use == "pairs":
            described = _FRAME + asked + _CAPTION + medium
            one = (described, _CAPTION) if reads == "comprehension" else (made, 1)
            yield data.rows, *one


def media_of(data: PublicData) -> float:
    """How many media the rows of a data set show, of each kind."""
    return data.rows / data.rows_a_medium


def _looking(profile: Profile, recipe: Recipe, card: rates.Card) -> float:
    """Seconds that the frozen models take for all media and captions."""
    work = 0.0
    for data in recipe.data.values():
        work += media_of(data) * sum(rates.looking_operations(profile, kind) for kind in data.kinds)
        if data.use == "pairs":
            for kind in set(data.kinds) & set(profile.decoders):
                work += data.rows * rates.caption_operations(profile.decoders[kind])
    return work / (card.operations * rates.UTILISATION)


def _fetched(profile: Profile, recipe: Recipe) -> float:
    """Bytes that come over the network."""
    data = sum(one.gigabytes for one in recipe.fetched.values())
    return room_needed(profile).disk + data * 1e9


def _disk(profile: Profile, recipe: Recipe, part: float) -> dict[str, int]:
    """Bytes on disk: what is fetched (packed and unpacked), what is made of it, features and runs."""
    features = 0.0
    for data in recipe.data.values():
        features += media_of(data) * len(data.kinds) * 2 * rates.embedding_numbers(profile)
        if data.use == "pairs":
            for kind in set(data.kinds) & set(profile.decoders):
                features += data.rows * 2 * math.prod(profile.decoders[kind].condition)
    copied = sum(d.gigabytes for d in recipe.data.values() if d.reader in UNPACKING)
    return {
        "models": room_needed(profile).disk,
        DATA: round(2e9 * sum(o.gigabytes for o in recipe.fetched.values())),
        "datasets": round(1e9 * copied),
        "features": round(part * features),
        "runs": _RUNS,
    }


def plan_text(recipe: Recipe, plan: Plan, card: rates.Card, gigabytes: float) -> str:
    """The plan as tables, for people."""
    data = [
        {
            "data": name,
            "reader": one.reader,
            "for": one.use,
            "rows": f"{plan.taken[name]:,}",
            "requests": f"{plan.requests[name]:,}" if plan.requests[name] else None,
            "GB": f"{one.gigabytes:g}",
        }
        for name, one in recipe.data.items()
    ]
    stages = [
        {
            "stage": str(number),
            "rows": f"{one.rows:,}",
            "tokens": f"{one.tokens:.0f}",
            "batch": f"{one.batch} x {one.accumulation}",
            "steps": f"{one.steps:,}",
            "hours": f"{one.hours:.1f}",
            "GB of the card": f"{one.peak / 1e9:.1f}",
        }
        for number, one in plan.stages.items()
    ]
    hours = [{"work": name, "hours": f"{one:.1f}"} for name, one in plan.hours.items()]
    hours.append({"work": "together", "hours": f"{sum(plan.hours.values()):.1f}"})
    disk = [{"disk": name, "GB": f"{one / 1e9:,.0f}"} for name, one in plan.disk.items()]
    disk.append({"disk": "together", "GB": f"{sum(plan.disk.values()) / 1e9:,.0f}"})
    head = f"planned, not measured: {recipe.name} on {card.name}, {gigabytes:g} GB; {100 * plan.part:.0f} % of its data"
    tables: list[list[dict[str, Any]]] = [data, stages, hours, disk]
    return "\n\n".join([head, *map(terminal.table, tables)])
