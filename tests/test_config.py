"""Profiles, and the files that have to agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from anytoany_lib.config import PROFILE_FOLDER, Profile, licences, resolve
from anytoany_lib.system import runs

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted(PROFILE_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_profile_loads_under_its_own_name(path: Path):
    assert Profile.load(path.stem).name == path.stem


def test_a_profile_survives_writing_and_reading(tmp_path: Path):
    profile = Profile.load("tiny")
    (tmp_path / "copy.yaml").write_text(str(profile))
    assert Profile.load(tmp_path / "copy.yaml") == profile


def test_an_unknown_key_is_named(tmp_path: Path):
    settings = yaml.safe_load((PROFILE_FOLDER / "tiny.yaml").read_text())
    settings["stages"][2]["learning_rat"] = 1
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=r"wrong\.yaml: stages\.2\.learning_rat: Extra inputs"):
        Profile.load(tmp_path / "wrong.yaml")


def test_an_unknown_profile_says_which_there_are():
    with pytest.raises(FileNotFoundError, match="'huge'.*tiny"):
        Profile.load("huge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rates": {"lora": 0.0}}, "learning_rates.lora"),
        ({"learning_rates": {"head": 0.1}}, "learning_rates.head"),
        ({"reads": "everything"}, "reads"),
    ],
)
def test_a_stage_with_senseless_settings_is_refused(change: dict, message: str):
    settings = Profile.load("tiny").model_dump()
    settings["stages"][1] |= change
    with pytest.raises(ValueError, match=re.escape(f"stages.1.{message}")):
        Profile.parse(settings, "test")


def test_a_fit_of_what_the_stage_does_not_train_is_refused():
    settings = Profile.load("tiny").model_dump()
    settings["stages"][1]["fit_after"] = {"steps": 10}
    with pytest.raises(ValueError, match=r"stages\.1.*give learning_rates\.output_projections"):
        Profile.parse(settings, "test")


def test_a_profile_like_another_says_only_what_differs(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nlike: nextgpt-7b\nencoder: {soft_tokens: 4}\n"
        "decoders: {image: {folder: ckpt/sd2, source: {hub: a/b}, condition: [77, 1024]}}\n"
    )
    mine, base = Profile.load(tmp_path / "mine.yaml"), Profile.load("nextgpt-7b")
    image = mine.decoders["image"]
    assert (image.condition, image.signals, image.options) == (
        (77, 1024),
        4,
        base.decoders["image"].options,
    )
    assert image.source.hub == "a/b" and image.source.gigabytes is None
    assert mine.encoder.soft_tokens == 4 and mine.encoder.folder == base.encoder.folder
    assert mine.decoders["video"] == base.decoders["video"] and mine.stages == base.stages


def test_a_run_is_shown_as_the_shipped_profile_of_its_name_says():
    run = resolve("ckpt/tiny/run")
    record = runs.read_record(run)
    assert "upscale" not in record["profile"]["decoders"]["image"], "it is from before"
    shown = runs.profile_of(record, run).decoders
    assert [shown[kind].upscale for kind in ("image", "video", "audio")] == [4, 4, None]
    image = record["profile"]["decoders"]["image"]
    for own, expected in (({"upscale": 1}, 1), ({"folder": "ckpt/another"}, None)):
        record["profile"]["decoders"]["image"] = image | own
        assert runs.profile_of(record, run).decoders["image"].upscale == expected
    record["profile"]["decoders"]["image"] = image
    record["profile"]["name"] = "one of my own"
    assert runs.profile_of(record, run).decoders["image"].upscale is None


def test_a_sound_cannot_be_enlarged():
    settings = Profile.load("tiny").model_dump()
    settings["decoders"]["audio"]["upscale"] = 4
    with pytest.raises(ValueError, match=r"decoders\.audio: .*upscale is for pictures and clips"):
        Profile.parse(settings, "test")


def test_a_wheel_needs_its_checksum():
    settings = Profile.load("tiny").model_dump()
    settings["llm"]["source"] = {"wheel": "something==1"}
    with pytest.raises(ValueError, match="sha256"):
        Profile.parse(settings, "test")
    for told in ("", "0" * 63, "A" * 64, "0" * 64 + "\n", "../x"):
        settings["llm"]["source"] = {"url": "https://host.invalid/x", "sha256": told}
        with pytest.raises(ValueError, match="llm.source.sha256"):
            Profile.parse(settings, "test")


@pytest.mark.parametrize("path", sorted(PROFILE_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_licence_of_a_profile_has_been_looked_at(path: Path):
    for part, (licence, terms) in licences.commercial_use(Profile.load(path.stem)).items():
        assert "nobody has looked" not in terms.why and licence != "none named", (part, licence)


def test_what_the_repository_ships_has_a_licence_too():
    used = licences.commercial_use(Profile.load("tiny"))
    assert {used[kind][0] for kind in ("encoder", "image", "audio", "video")} == {"Apache-2.0"}
    assert used["image upscaler"] == used["video upscaler"] == ("BSD-3-Clause", used["llm"][1])
    assert "audio upscaler" not in used
    for folder in licences.SHIPPED:
        assert resolve(folder).is_dir()
    assert "BSD 3-Clause" in (resolve("ckpt/tiny/upscaler") / "LICENSE").read_text()


def test_no_part_of_the_permissive_profile_forbids_commercial_use():
    profile = Profile.load("permissive")
    assert licences.forbids(profile) == []
    used = {part: terms for part, (_, terms) in licences.commercial_use(profile).items()}
    parts = {"llm", "encoder", "audio encoder", "image", "audio", "video", "voice", "recogniser"}
    assert set(used) == parts
    asking = {part for part, terms in used.items() if terms.use == "conditions"}
    assert asking == {"image", "audio"} and "1,000,000 US dollars" in used["audio"].why


def test_the_strictest_of_several_licences_counts():
    assert licences.terms_of("Apache-2.0").use == "allowed"
    assert licences.terms_of("Apache-2.0 + CreativeML OpenRAIL-M").use == "conditions"
    assert licences.terms_of("Apache-2.0 + CC-BY-NC-4.0 + MIT").use == "forbidden"
    assert licences.terms_of("Apache-3") == ("forbidden", "nobody has looked at 'Apache-3'")
    assert licences.terms_of(None).use == "forbidden"
    lines = licences.forbids(Profile.load("qwen3-8b"))
    assert [line.split(":")[0] for line in lines] == ["encoder", "audio", "video", "voice"]


def test_relative_paths_start_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("ANYTOANY_HOME", str(tmp_path))
    assert resolve("ckpt/nothing-there") == tmp_path / "ckpt/nothing-there"


def pyproject() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_ask_for_the_same_packages():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert sorted(pip) == sorted([*pyproject()["dependencies"], "-e ."])


def test_every_dependency_has_bounds():
    unbounded = [d for d in pyproject()["dependencies"] if not re.search(r">=.+,<", d)]
    assert unbounded == []
