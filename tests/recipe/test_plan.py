"""What a recipe is planned to take, and what is said where something is missing, half there or too small."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from anytoany_lib import cli
from anytoany_lib.config import Profile
from anytoany_lib.memory.preflight import LADDER, for_card
from anytoany_lib.recipe import rates, sources
from anytoany_lib.recipe.plan import Plan, card_bytes, make_plan, planned_profile, too_small
from anytoany_lib.recipe.settings import FOLDER, PublicData, Recipe

PROFILE = "qwen3-1.7b"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe.load("card-day")


@pytest.fixture(scope="module")
def plan(recipe: Recipe) -> Plan:
    return make_plan(Profile.load(PROFILE), recipe, rates.CARDS["rtx-3090"], 24, 24)


def test_a_day_is_not_longer(recipe: Recipe, plan: Plan):
    assert 0 < plan.part <= 1 and sum(plan.hours.values()) <= 24
    assert set(plan.taken) == set(recipe.data)
    assert all(plan.taken[name] <= data.rows for name, data in recipe.data.items())
    for number, stage in plan.stages.items():
        assert stage.peak <= card_bytes(24)
        assert stage.batch * stage.accumulation == recipe.rows_a_step[number]
        read = stage.steps * recipe.rows_a_step[number]
        assert 0 <= read - stage.rows < recipe.rows_a_step[number]


def test_every_set_says_when_and_where_it_was_looked_up(recipe: Recipe):
    for name, one in recipe.fetched.items():
        assert re.match(r"20\d\d-\d\d-\d\d, .*(size|count)", one.checked), name
    settings = recipe.data["coco"].model_dump(exclude={"checked"})
    assert PublicData.model_validate(settings).checked == "not verified"


def test_a_stage_takes_the_operations_of_its_tokens(plan: Plan):
    """Six operations a weight and token where layers are computed twice, at the part of its peak that a card is given."""
    profile, card, one = Profile.load(PROFILE), rates.CARDS["rtx-3090"], plan.stages[1]
    layers = 28 * (2 * 2048 * 128 * (16 + 8) + 3 * 2048 * 6144)
    assert rates.sizes(profile).matrices == layers
    least = 6 * layers * one.tokens * one.batch / (card.operations * 0.4)
    assert least < one.seconds < least + 0.5


def test_the_profile_has_the_batches_and_steps_of_the_plan(plan: Plan):
    profile = planned_profile(Profile.load(PROFILE), plan)
    for number, stage in profile.stages.items():
        assert (stage.steps, stage.epochs) == (plan.stages[number].steps, None)
        assert stage.rows_a_step == plan.stages[number].batch * plan.stages[number].accumulation
    assert profile.stages[3].divergence_weight == 1
    assert Profile.parse(yaml.safe_load(str(profile)), "the planned profile") == profile


def test_a_smaller_card_has_smaller_batches_and_fewer_hours_less_data(recipe: Recipe, plan: Plan):
    profile, card = Profile.load(PROFILE), rates.CARDS["rtx-3090"]
    larger = Profile.load("qwen3-4b")
    small, large = (make_plan(larger, recipe, card, size, 24) for size in (8.5, 24))
    assert small.stages[3].batch < large.stages[3].batch
    short = make_plan(profile, recipe, card, 24, 12)
    assert short.part < plan.part and short.stages[3].steps < plan.stages[3].steps


def test_the_ladder_says_what_a_card_takes():
    assert [for_card(size) for size in (6, 8, 12, 16, 24, 80)] == [
        None,
        *reversed(LADDER.values()),
        "qwen3-8b",
    ]
    said = too_small(Profile.load("qwen3-8b"), 12)
    assert "qwen3-8b does not fit a card of 12 GB" in said
    assert said.endswith("take --profile qwen3-1.7b")
    assert too_small(Profile.load("qwen3-0.6b"), 4).endswith(
        "no profile of the kit fits such a card"
    )


def test_the_recipe_of_the_kit_is_whole(recipe: Recipe):
    for name, data in recipe.fetched.items():
        assert data.terms and data.where and "{folder}" in data.get, name
    for data in recipe.data.values():
        assert data.use == "talks" or data.kinds
        assert not data.requests or len(recipe.requests[data.kinds[0]]) >= 6
    assert {kind for data in recipe.of_use("pairs").values() for kind in data.kinds} == {
        "image",
        "audio",
        "video",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reader": "nothing"}, "data.coco.reader: Value error, expected a reader, one of cc3m"),
        ({"rows": 0}, "data.coco.rows"),
        ({"leave_out": "lost"}, "leave_out names lost, which is not there"),
        ({"row": 3}, "data.coco.row: Extra inputs"),
    ],
)
def test_a_recipe_with_senseless_settings_is_refused(tmp_path: Path, change: dict, message: str):
    settings = yaml.safe_load((FOLDER / "card_day.yaml").read_text(encoding="utf-8"))
    settings["data"]["coco"] |= change
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(ValueError, match="wrong.yaml") as error:
        Recipe.load(tmp_path / "wrong.yaml")
    assert message in str(error.value)


def test_data_that_are_not_there_or_half_there_are_named(recipe: Recipe, tmp_path: Path):
    first = sources.lacking(recipe, tmp_path)
    assert [line.split(":")[0] for line in first] == list(recipe.fetched)
    talk = tmp_path / "talk"
    assert f"mkdir -p {talk} && hf download" in first[-2] and "Apache-2.0" in first[-2]
    few = recipe.model_copy(update={"data": {"talk": recipe.data["talk"]}, "benchmarks": {}})
    (talk / "data").mkdir(parents=True)
    (line,) = sources.lacking(few, tmp_path)
    assert "half a download, expected 1 files **/train-*.parquet" in line and "found 0" in line
    (talk / "data/train-00000-of-00004.parquet").touch()
    (line,) = sources.lacking(few, tmp_path)
    assert line.startswith(f"talk: {talk}/data/train-00000-of-00004.parquet is empty")
    (talk / "data/train-00000-of-00004.parquet").write_bytes(b"PAR1")
    assert sources.lacking(few, tmp_path) == []
    (talk / "data/x.incomplete").touch()
    (line,) = sources.lacking(few, tmp_path)
    assert "half a download" in line and "x.incomplete is not whole" in line


def test_a_disk_too_small_is_named(tmp_path: Path):
    free = shutil.disk_usage(tmp_path).free
    assert sources.disk_shortage(tmp_path / "out", {"models": free // 2}) == ""
    line = sources.disk_shortage(tmp_path / "out", {"models": free, "features": 10**9})
    assert str(tmp_path / "out") in line and "features 1.0" in line and "on a larger disk" in line


def test_a_dry_run_says_what_is_planned_and_lacking_and_touches_nothing(tmp_path: Path, capsys):
    arguments = ["--profile", PROFILE, "--gigabytes", "24", "--dry-run"]
    places = ["--sources", str(tmp_path / "sources"), "--out", str(tmp_path / "out")]
    assert cli.main(["recipe", *arguments, *places]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("planned, not measured: card-day on RTX 3090, 24 GB; ")
    assert "stage 3" in printed and "together" in printed and "cc3m: no folder" in printed
    assert list(tmp_path.iterdir()) == []
