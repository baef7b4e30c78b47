"""The benchmarks run and measure what they say, at small size: on a card they are the same code at full size."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from anytoany_lib.config import Profile
from anytoany_lib.imagebind import ImageBind
from anytoany_lib.model import AnyToAny

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture(scope="module")
def bench() -> dict[str, ModuleType]:
    """The scripts of bench/ as modules, which import each other by name."""
    loaded = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        for name in ("random_models", "record", "chat", "gpu", "manifests", "features"):
            spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
            loaded[name] = module
        yield loaded


def test_a_random_language_model_loads_as_a_published_one_does(
    bench, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full = Profile.load("nextgpt-7b")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    llm = full.llm.model_copy(update={"architecture": full.llm.architecture | sizes})
    monkeypatch.setattr(bench["random_models"], "_SHARD_BYTES", 3_000_000)
    small = full.model_copy(
        update={"llm": llm, "encoder": profile.encoder, "decoders": profile.decoders}
    )
    filled, absent = bench["random_models"].fill(small, tmp_path)
    assert absent == ["llm"] and len(list((tmp_path / "llm").glob("*.safetensors"))) > 1
    model = AnyToAny.from_profile(filled)
    assert model.causal_lm.get_input_embeddings().weight.shape == (32000, 64)
    assert model.causal_lm.get_decoder().layers[0].mlp.up_proj.weight.dtype == torch.uint8
    batch = bench["gpu"].batch_for(model, filled.stages[3], tokens=48)
    assert 48 <= batch.ids.shape[1] < 60 and batch.ids.shape[0] == filled.stages[3].batch_size


def test_the_random_pipelines_and_encoder_have_the_published_sizes(bench):
    """Counted on the meta device: parameters in millions, as published or counted from published files."""
    random_models = bench["random_models"]
    tokenizer = random_models.words(300, 77)
    with torch.device("meta"):
        image = random_models.stable_diffusion(tokenizer)
        video = random_models.text_to_video(tokenizer)
        audio = random_models.audioldm(tokenizer)
        encoder = ImageBind.huge()

    def millions(module: torch.nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    assert millions(image.unet) == pytest.approx(859.5, abs=0.1)
    assert millions(image.text_encoder) == pytest.approx(123.1, abs=0.1)
    assert millions(image.vae) == pytest.approx(83.7, abs=0.1)
    assert millions(video.unet) == pytest.approx(1413, rel=0.01)
    assert millions(audio.unet) == pytest.approx(739, abs=0.5)
    assert millions(encoder) == pytest.approx(1200.8, abs=0.1)


def test_a_stage_is_measured_beside_the_bare_step(
    bench, profile: Profile, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench["gpu"], "STEPS", 1)
    monkeypatch.setattr(bench["gpu"], "WARMUP", 0)
    stages = {3: profile.stages[3].model_copy(update={"batch_size": 2})}
    found = bench["gpu"].training(profile.model_copy(update={"stages": stages}), tokens=32)
    stage = found["stage 3"]
    assert stage["batch"][0] == 2 and 32 <= stage["batch"][1] < 40
    assert stage["step_seconds"] > 0 and stage["bare_step_seconds"] > 0 and stage["host_gb"] > 0.1
    assert stage["ratio"] == pytest.approx(
        stage["step_seconds"] / stage["bare_step_seconds"], abs=1e-3
    )


def test_manifests_are_measured_and_their_memory_does_not_grow_with_the_rows(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench["manifests"], "FEW", 4_000)
    monkeypatch.setattr(bench["manifests"], "RANDOM_READS", 50)
    found = bench["manifests"].measure(40_000, tmp_path)
    for form in ("jsonl", "json"):
        build, read = (found[form]["40000"][what] for what in ("build", "read"))
        assert build["rows"] == 40_000 and read["rows"] == 36_000
        assert build["rows_per_second"] > 0 and read["random_rows_per_second"] > 0
        assert found[form]["build_memory_growth_mb"] < 40


def test_features_are_measured_beside_the_bare_models(bench, profile: Profile, tmp_path: Path):
    features = bench["features"]
    captions = features.caption_rates(profile, "audio", count=16, rounds=1, work=tmp_path)
    images = features.media_rates(profile, "image", count=4, rounds=1, work=tmp_path)
    for found in (captions, images):
        expected = found["a second"] / found["bare a second"]
        assert found["ratio to bare"] == pytest.approx(expected, rel=0.1)
    assert captions["bare batch"] in features.BATCH_SIZES and captions["ratio to single files"] > 0


def test_a_chat_is_measured_beside_what_it_has_to_reach(bench, model: AnyToAny, scripted):
    chat = bench["chat"]
    rates = chat.text_rates(model, tokens=4, rounds=1)
    assert rates["tokens"] == 4 and rates["ratio to bare"] == pytest.approx(
        rates["a second"] / rates["bare a second"]
    )
    turns = chat.first_texts(model, conversations=1)
    assert len(turns["seconds of each"]) == 4 and min(turns["seconds of each"]) > 0
    made = chat.diffusion(model, "image", rounds=1)
    assert made["ratio to bare"] == pytest.approx(made["seconds"] / made["bare seconds"])
    scripted(["Look:", "image", "STOP"], ["Only words", "STOP"])
    assert 0 < chat.seconds_to_stop(model, "image") < 5
    with pytest.raises(RuntimeError, match="not answered with image"):
        chat.seconds_to_stop(model, "image")


def test_verdicts_name_what_is_not_reached_and_leave_out_what_was_not_measured(bench):
    found = {"text": {"ratio to bare": 0.95}, "stop": {"seconds": 0.7}, "page": {}}
    assert bench["chat"].verdicts(found) == {
        "text: ratio to bare": "0.95, at least 0.9: yes",
        "stop: seconds": "0.7, at most 0.5: NO",
    }
