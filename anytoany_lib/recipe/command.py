"""`anytoany recipe`: from nothing to a measured any-to-any checkpoint on one card, or what that would take.

    anytoany recipe --profile qwen3-4b --gigabytes 24 --dry-run
    anytoany recipe --profile qwen3-4b --gigabytes 24 --sources data/public --out ckpt/recipe

The first says what is planned and what is still to be fetched, and touches nothing. The second does it, and goes on where it was
if it is called again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from anytoany_lib.config import Profile, resolve
from anytoany_lib.memory.preflight import room_needed
from anytoany_lib.recipe import sources
from anytoany_lib.recipe.measuring import results_text
from anytoany_lib.recipe.plan import DATA, make_plan, plan_text, planned_profile, too_small
from anytoany_lib.recipe.rates import CARDS
from anytoany_lib.recipe.settings import Recipe
from anytoany_lib.recipe.steps import RECORD, Work, cook
from anytoany_lib.system import terminal


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: plan a recipe, or follow it to the end. ValueError or FileNotFoundError say what is in its way."""
    parser = terminal.parser(
        "recipe",
        "From public data to a measured any-to-any checkpoint, on one card in a day.",
        "--profile qwen3-4b --gigabytes 24 --dry-run",
        "--profile qwen3-4b --gigabytes 24 --sources data/public --out ckpt/recipe",
    )
    parser.add_argument("--profile", default="qwen3-4b")
    parser.add_argument("--recipe", default="card-day", help="name, or path of a .yaml file")
    parser.add_argument("--sources", default="data/public", help="a folder for each data set")
    parser.add_argument("--out", default="ckpt/recipe", help="datasets, runs and records")
    parser.add_argument("--gigabytes", type=float, help="memory of the card (default: this one's)")
    parser.add_argument("--card", choices=CARDS, default="rtx-3090", help="to plan time with")
    parser.add_argument("--hours", type=float, help="that all of it may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trust", action="store_true", help="fetch from where the profile says")
    parser.add_argument("--dry-run", action="store_true", help="only say what it takes")
    given = parser.parse_args(arguments)
    profile, recipe = Profile.load(given.profile), Recipe.load(given.recipe)
    gigabytes = given.gigabytes or _of_this_card()
    if reason := too_small(profile, gigabytes):
        raise ValueError(reason)
    card = CARDS[given.card]
    plan = make_plan(profile, recipe, card, gigabytes, given.hours or recipe.hours)
    print(plan_text(recipe, plan, card, gigabytes))
    folder, out = resolve(given.sources), resolve(given.out)
    lines = sources.lacking(recipe, folder)
    disk = plan.disk | {"models": room_needed(profile).disk}
    if not lines:
        del disk[DATA]
    begun = (out / RECORD).is_file()  # what it has written already is not needed again
    if not begun and (short := sources.disk_shortage(out, disk)):
        lines.append(short)
    if given.dry_run:
        print("\nstill lacking:\n" + "\n".join(lines) if lines else "\nall data are there")
        return
    if lines:
        raise FileNotFoundError("; ".join(lines))
    work = Work(planned_profile(profile, plan), recipe, plan, folder, out, given.seed, given.trust)
    print(f"\n{results_text(recipe, cook(work))}")


def _of_this_card() -> float:
    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA card here: say for which one to plan, as --gigabytes 24")
    return float(torch.cuda.get_device_properties(0).total_memory) / 1e9
