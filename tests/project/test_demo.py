"""What `make demo` tells the notebooks, whatever the profile."""

from __future__ import annotations

import pytest

from anytoany_lib import cli, demo
from anytoany_lib.config import PROFILE_FOLDER, Profile


def steps_told(*arguments: str) -> list[int]:
    planned = demo.notebooks_to_run(demo.parser().parse_args([*arguments]))
    return [told["MAX_STEPS"] for _, told in planned if "MAX_STEPS" in told]


@pytest.mark.parametrize("name", sorted(file.stem for file in PROFILE_FOLDER.glob("*.yaml")))
def test_every_shipped_profile_is_trained_as_long_as_it_says(name: str):
    # 0 is the notebooks' word for the profile's own number, of epochs as well.
    assert steps_told("--profile", name) == [
        stage.steps or 0 for stage in Profile.load(name).stages.values()
    ]


def test_steps_are_scaled_and_epochs_cannot_be(capsys: pytest.CaptureFixture):
    stages = Profile.load("tiny").stages.values()
    expected = [max(1, round(stage.steps * 0.001)) for stage in stages]
    assert steps_told("--steps-scale", "0.001") == expected
    assert cli.main(["demo", "--profile", "nextgpt-7b", "--steps-scale", "0.5"]) == 1
    assert "stage 1 of profile nextgpt-7b counts epochs" in capsys.readouterr().err
