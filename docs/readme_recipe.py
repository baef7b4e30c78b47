"""The kit's recipe for docs/RECIPE.md: its data with their terms, its plan by profile and card, its targets.

Everything comes from anytoany_lib/recipe/card_day.yaml and from `anytoany_lib.recipe.plan`, as on a machine that has fetched nothing.
"""

from __future__ import annotations

from anytoany_lib.config import Profile
from anytoany_lib.memory.preflight import LADDER
from anytoany_lib.recipe.plan import make_plan
from anytoany_lib.recipe.rates import CARDS
from anytoany_lib.recipe.settings import Fetched, Recipe

_RECIPE, _GIGABYTES = "card-day", 24
_CARDS = ("rtx-3090", "rtx-4090")


def data() -> str:
    """What is fetched, how much is taken, and on what terms."""
    recipe = Recipe.load(_RECIPE)
    lines = [
        "| data | reader | rows taken at most | for | to fetch | published | terms | looked up |",
        "| --- | --- | ---: | --- | ---: | --- | --- | --- |",
    ]
    for name, one in recipe.data.items():
        asked = f", {one.requests:,} as requests" if one.requests else ""
        use = "stages 1 and 2" if one.use == "pairs" else "stage 3"
        shown = (
            f"[{name}]({one.where})" if one.where.startswith("http") else f"{name} ({one.where})"
        )
        lines.append(
            f"| {shown} | `{one.reader}` | {one.rows:,}{asked} | {use} | {_published(one)} |"
        )
    for name, bench in recipe.benchmarks.items():
        lines.append(f"| [{name}]({bench.where}) | | | measuring | {_published(bench)} |")
    return "\n".join(lines)


def _published(one: Fetched) -> str:
    """Size, contents and terms of a set, and where these were looked up; what was not found is bold."""
    checked = one.checked.replace("not verified", "**not verified**")
    return f"{one.gigabytes:g} GB | {one.published} | {one.terms} | {checked}"


def plan() -> str:
    """Rows, batches, steps, hours and memory of the stages, by profile and card."""
    recipe = Recipe.load(_RECIPE)
    lines = [
        "| profile, card | part of the data | stage | rows | batch | steps | hours | GB of the card | all of it, hours |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in reversed(LADDER.values()):
        profile = Profile.load(name)
        for card in _CARDS:
            made = make_plan(profile, recipe, CARDS[card], _GIGABYTES, recipe.hours)
            whole = f"{sum(made.hours.values()):.1f}"
            for number, stage in made.stages.items():
                first = number == min(made.stages)
                head = f"`{name}`, {CARDS[card].name} | {100 * made.part:.0f} %" if first else " | "
                lines.append(
                    f"| {head} | {number} | {stage.rows:,} | {stage.batch} x {stage.accumulation} | {stage.steps:,} | "
                    f"{stage.hours:.1f} | {stage.peak / 1e9:.1f} | {whole if first else ''} |"
                )
    return "\n".join(lines)


def targets() -> str:
    """The numbers that are aimed at, beside what NExT-GPT was measured at."""
    recipe = Recipe.load(_RECIPE)
    lines = [
        "| target | at least | NExT-GPT, as JavisGPT measured it | how |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, target in recipe.targets.items():
        before = "" if target.nextgpt is None else f"{target.nextgpt:g}"
        lines.append(f"| {name} | {target.at_least:g} | {before} | {target.how} |")
    return "\n".join(lines)
