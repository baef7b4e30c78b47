"""Ablations: what each varies, and one of them whole, through its notebook, on two steps a stage."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
import yaml
from bitsandbytes.nn import Linear4bit

from anytoany_lib import demo
from anytoany_lib.config import Profile
from anytoany_lib.evaluation import ablations
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.runs import flat
from anytoany_lib.training.stage_data import StageData


def test_each_ablation_varies_its_setting_and_nothing_else():
    tiny = Profile.load("tiny")
    expected = {
        "soft_tokens": {"encoder.soft_tokens"},
        "input_projection": {
            "encoder.states",
            *(f"input_projection.{key}" for key in ("kind", "width", "heads", "layers")),
            *(f"stages.{stage}.learning_rates.input_projection" for stage in (1, 3)),
        },
        "signal_tokens": {f"decoders.{kind}.signals" for kind in ("image", "audio", "video")},
        "alignment": {
            *(f"stages.{stage}.alignment" for stage in (1, 2, 3)),
            *(f"stages.{stage}.denoising_weight" for stage in (2, 3)),
        },
        "stage_order": set(),
        "lora_rank": {"lora.rank", "lora.alpha"},
        "quantization": {"llm.quantization"},
    }
    assert ablations.ABLATIONS.keys() == expected.keys()
    for name, settings in expected.items():
        profiles = [flat(p.model_dump()) for p in ablations.variants(tiny, name).values()]
        varied = {key for key in profiles[0] if len({str(p[key]) for p in profiles}) > 1}
        assert varied == settings, name
    for name in expected.keys() - {"stage_order"}:  # the profile as it is takes part in all
        assert tiny in ablations.variants(tiny, name).values(), name
    ranks = ablations.variants(tiny, "lora_rank")
    assert list(ablations.variants(tiny, "lora_rank", ["64", "4"])) == ["64", "4"]
    assert [p.lora.alpha / p.lora.rank for p in ranks.values()] == [2, 2, 2]
    aligned = ablations.variants(tiny, "alignment").values()
    assert [p.stages[2].alignment for p in aligned] == ["l2", "mse", "cosine", "l2"]
    assert [p.stages[2].denoising_weight for p in aligned] == [0, 0, 0, 1]


def test_an_unknown_ablation_and_senseless_steps_are_refused(tmp_path: Path):
    tiny = Profile.load("tiny")
    with pytest.raises(ValueError, match="no ablation 'depth': expected one of soft_tokens, "):
        ablations.variants(tiny, "depth")
    with pytest.raises(ValueError, match="no value '5': expected some of 4, 16, 64"):
        ablations.variants(tiny, "lora_rank", ["4", "5"])
    for steps in ([1, 2], [1, 2, 0]):
        with pytest.raises(ValueError, match="expected three numbers from 1 up"):
            ablations.run("lora_rank", tiny, tmp_path, tmp_path, steps)


def test_rates_over_the_matrix_are_weighted_by_rows():
    metrics = {
        "matrix.text->image.n": 30,
        "matrix.text->image.thing": 1.0,
        "matrix.audio->image.n": 10,
        "matrix.audio->image.thing": 0.2,
        "matrix.audio->image.thing_interval": [0.1, 0.3],
        "matrix.text->text.n": 5,
        "more.follow-up.n": 7,
        "more.follow-up.thing": 0.0,
        "modality_accuracy": 0.9,
    }
    variant = {"metrics": metrics, "seconds": 90}
    (row,) = ablations.variant_rows({"ablation": "lora_rank", "variants": {"4": variant}})
    assert row["thing"] == pytest.approx((30 * 1.0 + 10 * 0.2) / 40)
    assert row["colour"] is None and row["minutes"] == 1.5 and row["modality"] == 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [("soft_tokens", "1"), ("signal_tokens", "1"), ("lora_rank", "4"), ("quantization", "nf4")],
)
def test_variants_differ_in_the_model_that_is_trained(
    name: str, value: str, profile: Profile, toy_data: Path
):
    changed = ablations.variants(profile, name)[value]
    varied = AnyToAny.from_profile(changed, seed=0)
    varied.add_lora()
    features = DatasetFeatures(changed, toy_data)
    shown, asked = (
        next(StageData(toy_data, "train", reads, varied.messages, features, seed=0).batches(2))[1]
        for reads in ("comprehension", "generation")
    )
    assert varied(shown)["text"].isfinite()
    assert all(loss.isfinite() for loss in varied(asked).values()) and asked.signals_at
    linear = varied.causal_lm.model.layers[0].self_attn.q_proj
    assert {
        "soft_tokens": varied.input_projection.soft_tokens == 1,
        "signal_tokens": varied.signal_embeddings("video").shape[0] == 1,
        "lora_rank": linear.lora_A["default"].weight.shape[0] == 4,
        "quantization": isinstance(linear.base_layer, Linear4bit),
    }[name]


def quick(profile: Profile, folder: Path) -> Path:
    """A YAML of the tiny profile with little to do in every step, to try notebooks with."""
    settings = profile.model_dump(mode="json")
    for decoder in settings["decoders"].values():
        decoder["steps"] = 2
    for stage in settings["stages"].values():
        stage["batch_size"] = 2
        if stage["fit_after"]["steps"]:
            stage["fit_after"] |= {"rows": 8, "steps": 8, "batch_size": 4}
    settings["llm"]["max_new_tokens"] = 12
    (folder / "quick.yaml").write_text(yaml.safe_dump(settings))
    return folder / "quick.yaml"


@pytest.mark.long
def test_one_ablation_from_its_notebook_and_again_without_work(
    profile: Profile, toy_data: Path, tmp_path: Path, monkeypatch
):
    file = quick(profile, tmp_path)
    told = {"PROFILE": str(file), "DATA": str(toy_data), "ABLATION": "stage_order"}
    told |= {"STEPS": "2 2 2", "PER_TASK": 1, "OUT": str(tmp_path / "runs")}
    told |= {"RESULTS": str(tmp_path / "docs")}
    demo.execute(demo.NOTEBOOKS / "ablation.ipynb", told, tmp_path / "out")
    cells = nbformat.read(tmp_path / "out" / "ablation.ipynb", as_version=4).cells
    shown = json.dumps([cell.get("outputs", []) for cell in cells])
    assert '"image/png": ' in shown and "1-3-2" in shown
    found = json.loads((tmp_path / "docs" / "stage_order.json").read_text())
    assert list(found["variants"]) == ["1-2-3", "1-3-2"] and found["steps"] == [2, 2, 2]
    assert all(0 <= v["metrics"]["modality_accuracy"] <= 1 for v in found["variants"].values())
    swapped = tmp_path / "runs" / "stage_order" / "1-3-2"
    assert sorted(path.name for path in swapped.iterdir() if path.is_dir()) == ["stage2", "stage3"]
    came_from = {n: runs.read_record(swapped / f"stage{n}")["init"] for n in (2, 3)}
    assert came_from[3].endswith("unvaried/stage1") and came_from[2].endswith("1-3-2/stage3")
    assert (swapped / "stage2" / "metrics.json").is_file()

    def refused(*arguments, **named):
        raise AssertionError("done again")

    monkeypatch.setattr(ablations, "train", refused)
    monkeypatch.setattr(ablations, "evaluate", refused)
    what = ("stage_order", Profile.load(file), toy_data, tmp_path / "runs")
    assert ablations.run(*what, [2, 2, 2], per_task=1) == found
    with pytest.raises(AssertionError, match="done again"):
        ablations.run(*what, [2, 2, 3], per_task=1)
