"""A recipe followed from nothing to its table of results: narrowed models from a hub on this machine, and every data set in its
published form; stopped in the middle, and gone on with.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from full_size import Narrowed, narrowed
from published_sets import SETS

from anytoany_lib import cli
from anytoany_lib.config import Profile
from anytoany_lib.data import read_manifest
from anytoany_lib.data.rows import media_in
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny
from anytoany_lib.recipe import measuring, sources, steps
from anytoany_lib.recipe.joining import names_of
from anytoany_lib.recipe.settings import FOLDER, Recipe

# The others are for `make test-long`.
PROFILES = ["qwen3-0.6b", pytest.param("qwen3-4b", marks=pytest.mark.long)]
REQUESTS = 2


def tiny_recipe(folder: Path) -> Path:
    """The kit's recipe with as few rows and files as the sets of `published_sets` have."""
    settings = yaml.safe_load((FOLDER / "card_day.yaml").read_text(encoding="utf-8"))
    for name, data in [*settings["data"].items(), *settings["benchmarks"].items()]:
        data["files"] = dict.fromkeys(data["files"], 1)
        data["gigabytes"] = 0
        if name in settings["data"]:
            data["rows"] = 8
            data["requests"] = REQUESTS if data.get("requests") else 0
    settings |= {"rows_a_step": {1: 8, 2: 8, 3: 8}, "held_out": 2, "tests": 2}
    file = folder / "tiny_recipe.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


class Followed:
    """A recipe that was stopped before stage 2 and then followed to its end."""

    def __init__(self, small: Narrowed, folder: Path, patch: pytest.MonkeyPatch):
        self.small, self.out, self.sources = small, folder / "out", folder / "sources"
        self.recipe = tiny_recipe(folder)
        for name, make in SETS.items():
            make(self.sources / name)
        settings = yaml.safe_load(small.profile.read_text(encoding="utf-8"))
        settings["llm"]["max_new_tokens"] = 8
        small.profile.write_text(yaml.safe_dump(settings), encoding="utf-8")
        # Narrowed models take nothing of what their profile says.
        patch.setattr(sources, "disk_shortage", lambda out, needed: "")
        own = steps.train
        for measure in ("lmms-eval", "lm-eval"):  # which fetch their own data
            patch.delitem(measuring.MEASURES, measure)

        def stopped(profile: Profile, stage: int, *arguments: object, **more: object) -> Path:
            if stage == 2:
                raise KeyboardInterrupt
            return own(profile, stage, *arguments, **more)

        with pytest.MonkeyPatch.context() as once:
            once.setattr(steps, "train", stopped)
            self.first = self.follow()
        self.before = self.record()
        self.asked = len(small.hub.asked)
        self.last = self.follow()

    def follow(self, *more: str) -> int:
        """The exit status of the command."""
        arguments = ["--profile", str(self.small.profile), "--recipe", str(self.recipe), "--trust"]
        places = ["--sources", str(self.sources), "--out", str(self.out), "--gigabytes", "24"]
        return cli.main(["recipe", *arguments, *places, *more])

    def record(self) -> dict:
        return json.loads((self.out / steps.RECORD).read_text(encoding="utf-8"))["steps"]


@pytest.fixture(scope="module", params=PROFILES)
def followed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Followed]:
    folder = tmp_path_factory.mktemp("recipe")
    with (
        narrowed(request.param, folder, 32, everything=False) as small,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in small.environment.items():
            patch.setenv(name, value)
        patch.setattr("huggingface_hub.constants.ENDPOINT", small.hub.url)
        template = small.hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.chdir(folder / "home")
        yield Followed(small, folder, patch)


def test_a_stopped_recipe_goes_on_where_it_was(followed: Followed):
    assert (followed.first, followed.last) == (130, 0)
    done = followed.record()
    names = [*followed.before, "stage 2", "stage 3"]
    assert list(followed.before)[-1] == "stage 1" and list(done)[: len(names)] == names
    assert all(done[name] == record for name, record in followed.before.items())
    assert len(followed.small.hub.asked) == followed.asked  # nothing was fetched again


def test_every_set_was_read_as_it_is_published(followed: Followed):
    recipe, done = Recipe.load(followed.recipe), followed.record()
    for name in recipe.data:
        assert done[f"data {name}"]["kept"] > 0 and not done[f"data {name}"]["dropped"], name
    rows = done["dataset"]["rows"]
    assert set(rows) == set(recipe.data) and all(found["train"] for found in rows.values())


def test_rows_are_named_by_their_set_and_their_media_are_there(followed: Followed):
    manifest = read_manifest(followed.out / "data", "train")
    counts = Counter(row.source for row in manifest)
    asked = {f"{name}-requests" for name in ("cc3m", "wavcaps", "msrvtt")}
    assert set(counts) == asked | set(Recipe.load(followed.recipe).data)
    for row in manifest:
        for _, path in media_in(row.messages):
            assert manifest.path(path).is_file()
        if row.source in asked:
            (part,) = row.messages[1]["content"]
            assert part["caption"] in row.messages[0]["content"][0]["text"]
            assert row.meta["task"] == f"text->{part['type']}"
    plain = [row for row in manifest if row.source == "talk"]
    assert plain and all(row.meta["plain"] for row in plain)


def test_what_a_benchmark_shows_is_not_trained_on(followed: Followed):
    """One test picture of COCO is among the training pictures, and two test sounds of Clotho-AQA among Clotho's."""
    train = read_manifest(followed.out / "data", "train")
    shown = {}
    for row in train:
        for _, path in media_in(row.messages):
            shown.setdefault(row.source, set()).update(names_of(path))
    assert shown["coco"] and "100000" not in shown["coco"] | shown["llava-instruct"]
    assert shown["clotho"] and not {"Rain 0", "Rain 1"} & shown["clotho"]


def test_stages_were_trained_as_planned(followed: Followed):
    for stage in (1, 2, 3):
        run = followed.out / "runs" / f"stage{stage}"
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert (
            record["stage"] == stage
            and record["steps"] == followed.record()[f"stage {stage}"]["steps"]
        )
        assert record["profile"]["stages"]["3"]["divergence_weight"] == 1
    model = AnyToAny.from_pretrained(followed.out / "runs" / "stage3")
    asked = [{"role": "user", "content": [{"type": "text", "text": "Draw a bell."}]}]
    assert model.chat(asked, 0, Sampling(kinds=("image",)))["role"] == "assistant"


def test_what_can_be_measured_here_was(followed: Followed):
    done, recipe = followed.record(), Recipe.load(followed.recipe)
    found = {row["target"]: row["this run"] for row in measuring.results(recipe, done)}
    assert set(found) == set(recipe.targets)
    for name in ("MU-AVQA", "COCO CIDEr", "right media"):
        assert found[name] is not None and found[name] >= 0, name
    assert found["MVBench"] is None  # its harness was taken away
    assert (
        done["measuring coco captions"]["n"] == 2 and not done["measuring coco captions"]["failed"]
    )
    assert done["measuring plain talk"]["ratio"] > 0


def test_other_settings_do_not_go_on_with_it(followed: Followed, capsys: pytest.CaptureFixture):
    assert followed.follow("--seed", "1") == 1
    assert "was begun with other settings" in capsys.readouterr().err


def test_a_set_that_went_missing_is_named_before_anything_is_done(
    followed: Followed, capsys: pytest.CaptureFixture
):
    away = followed.sources / "coco"
    away.rename(followed.sources / "elsewhere")
    try:
        assert followed.follow() == 1
        assert f"coco: no folder {away}; fetch it: mkdir -p {away} && cd" in capsys.readouterr().err
    finally:
        (followed.sources / "elsewhere").rename(away)
