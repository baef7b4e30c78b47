"""Pipelines as they were published: old layouts, other schedulers than the tiny ones', a safety checker that refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import old_layouts
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from safetensors.torch import save_file
from scripts import script

from anytoany_lib.config import DecoderConfig, Profile
from anytoany_lib.decoders import footprints
from anytoany_lib.decoders.adapters import ADAPTERS, CaptionEncoder, decoder_folder
from anytoany_lib.decoders.denoising import noise_schedule
from anytoany_lib.decoders.pipelines import BrokenMedia, Decoder
from anytoany_lib.generation import replies
from anytoany_lib.generation.events import Done, MediaFailed
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny

CPU = torch.device("cpu")
CAPTIONS = ["a red bell", "a blue boat moving left"]
KINDS = {"image": "stable_diffusion", "audio": "audioldm", "video": "text_to_video"}
SCHEDULERS = {
    "PNDM": PNDMScheduler(skip_prk_steps=True),
    "PNDM with Runge-Kutta": PNDMScheduler(),
    "DDIM": DDIMScheduler(),
    "Euler": EulerDiscreteScheduler(),
    "DPM-solver of second order": DPMSolverMultistepScheduler(solver_order=2),
    "Heun": HeunDiscreteScheduler(),
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DecoderConfig]:
    """A decoder of each kind in its published layout."""
    folder = tmp_path_factory.mktemp("old")
    return {kind: getattr(old_layouts, make)(folder / kind) for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def decoders(old: dict[str, DecoderConfig]) -> dict[str, Decoder]:
    return {kind: Decoder(config, CPU) for kind, config in old.items()}


def states(pipeline: Any) -> dict[str, torch.Tensor]:
    """The weights of all parts of a pipeline but the safety checker's."""
    return {
        f"{part}.{name}": tensor
        for part, module in pipeline.components.items()
        if isinstance(module, torch.nn.Module) and part != "safety_checker"
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_of_an_old_layout_comes_to_its_place(
    kind: str, decoders: dict[str, Decoder], tmp_path: Path
):
    folder = decoder_folder(decoders[kind].config)
    assert not list(folder.glob("**/*.safetensors")) and list(folder.glob("*/*.bin"))
    made: list[dict[str, torch.Tensor]] = []

    def kept(pipeline: Any, where: Path, scheduler: dict) -> Path:
        made.append(states(pipeline))
        return where

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(old_layouts, "_written", kept)
        getattr(old_layouts, KINDS[kind])(tmp_path)
    found = states(decoders[kind].pipeline)
    assert found.keys() == made[0].keys()
    for name, tensor in made[0].items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_scheduler_is_as_published(kind: str, decoders: dict[str, Decoder]):
    decoder = decoders[kind]
    folder = decoder_folder(decoder.config) / "scheduler"
    published = json.loads((folder / "scheduler_config.json").read_text())
    cls = published.pop("_class_name")
    published.pop("_diffusers_version")
    assert type(decoder.pipeline.scheduler).__name__ == cls
    assert decoder.pipeline.scheduler.config.items() >= published.items()
    schedule = noise_schedule(decoder.config)  # of the denoising term, whichever way it samples
    torch.testing.assert_close(
        schedule.alphas_cumprod, decoder.pipeline.scheduler.alphas_cumprod, rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_draws_what_the_bare_pipeline_draws_from_the_caption(
    kind: str, old: dict[str, DecoderConfig], decoders: dict[str, Decoder]
):
    config = old[kind]
    made = decoders[kind].generate(CaptionEncoder(config, CPU)(CAPTIONS), seeds=[3, 4])
    without = {"safety_checker": None} if kind == "image" else {}
    cls = ADAPTERS[config.pipeline].pipeline
    bare = cls.from_pretrained(decoder_folder(config), **without)
    drawn = bare(
        CAPTIONS,
        negative_prompt=["", ""],
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (3, 4)],
        output_type="np",
        **config.options,
    )[0]
    for medium, floats in zip(made, drawn, strict=True):
        expected = ADAPTERS[config.pipeline].medium(floats, config, bare)[kind]
        found = np.asarray(medium[kind], dtype=float)
        expected = np.asarray(expected, dtype=float)
        assert found.std() > 0
        if kind == "audio":  # the bare one's text encoder goes through the padding as well
            np.testing.assert_allclose(found, expected, atol=1e-5)
        else:  # frames are decoded one by one, which rounds otherwise than together
            assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kind", ["image", "video"])
def test_steps_are_counted_as_the_scheduler_goes(
    kind: str, name: str, decoders: dict[str, Decoder], monkeypatch: pytest.MonkeyPatch
):
    decoder = decoders[kind]
    monkeypatch.setattr(decoder.pipeline, "scheduler", SCHEDULERS[name])
    calls: list[None] = []
    hook = decoder.pipeline.unet.register_forward_hook(lambda *_: calls.append(None))
    steps: list[tuple[int, int]] = []
    shown = []

    def on_step(done: int, total: int, picture: Any) -> None:
        steps.append((done, total))
        shown.append(picture)
        assert done == len(calls)

    try:
        told = CaptionEncoder(decoder.config, CPU)(CAPTIONS[:1])
        decoder.generate(told, [0], 5, None, on_step, preview_every=1)
    finally:
        hook.remove()
    assert steps[-1] == (len(calls), len(calls)) and {total for _, total in steps} == {len(calls)}
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert all(picture is not None for picture in shown) == (kind == "image")
    if kind == "image":
        assert len(steps) == len(calls)
    assert (len(calls) == 6) == (name == "PNDM")


@pytest.mark.parametrize(("most", "frames"), [(2**26, [4]), (0, [1, 1, 1, 1])])
def test_a_large_clip_is_decoded_frame_by_frame(
    most: int, frames: list[int], decoders: dict[str, Decoder], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(footprints, "_TOGETHER", most)
    decoder, seen = decoders["video"], []
    hook = decoder.pipeline.vae.decoder.register_forward_hook(
        lambda module, given, out: seen.append(len(given[0]))
    )
    try:
        decoder.generate(CaptionEncoder(decoder.config, CPU)(CAPTIONS[:1]), [0], 1)
    finally:
        hook.remove()
    assert seen == frames


# --- the safety checker ---


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> DecoderConfig:
    return old_layouts.stable_diffusion(tmp_path_factory.mktemp("refusing"), refuses=True)


def checked(config: DecoderConfig) -> DecoderConfig:
    return config.model_copy(update={"safety_checker": True})


def test_the_safety_checker_is_left_out_and_its_files_are_not_needed(
    refusing: DecoderConfig, tmp_path: Path
):
    folder = tmp_path / "without"
    shutil.copytree(refusing.folder, folder, ignore=shutil.ignore_patterns("safety*", "feature*"))
    decoder = Decoder(refusing.model_copy(update={"folder": str(folder)}), CPU)
    assert decoder.pipeline.safety_checker is None
    (made,) = decoder.generate(CaptionEncoder(refusing, CPU)(CAPTIONS[:1]), [0], 1)
    assert np.asarray(made["image"]).std() > 0


def test_what_the_safety_checker_refuses_fails_and_says_so(refusing: DecoderConfig):
    decoder = Decoder(checked(refusing), CPU)
    told = CaptionEncoder(refusing, CPU)(CAPTIONS)
    with pytest.raises(BrokenMedia, match="safety checker refused.*safety_checker: false") as error:
        decoder.generate(told, [0, 1], 1)
    assert error.value.media == [None, None]
    told[0] = torch.nan
    with pytest.raises(BrokenMedia) as error:
        decoder.generate(told, [0, 1], 1)
    first, second = error.value.reasons
    assert "not finite" in first and "refused" in second


def test_a_safety_checker_that_is_content_changes_nothing(old: dict[str, DecoderConfig]):
    told = CaptionEncoder(old["image"], CPU)(CAPTIONS[:1])
    made, unchecked = (
        Decoder(config, CPU).generate(told, [0], 2)[0]["image"]
        for config in (checked(old["image"]), old["image"])
    )
    assert np.array_equal(np.asarray(made), np.asarray(unchecked))


def test_a_reply_goes_on_without_the_refused_picture(
    refusing: DecoderConfig, profile: Profile, monkeypatch: pytest.MonkeyPatch
):
    mixed = profile.model_copy(update={"decoders": profile.decoders | {"image": checked(refusing)}})
    model = AnyToAny.from_profile(mixed, seed=0).requires_grad_(False).eval()
    say = script(monkeypatch, model)
    request = [{"role": "user", "content": "Draw a bell."}]
    say(["Here it is.", "image", "STOP"], ["Here it is.", "image", "STOP"])
    events = list(model.stream(request, sampling=Sampling(steps=1)))
    (failed,) = [event for event in events if isinstance(event, MediaFailed)]
    assert "safety checker refused" in str(failed.error)
    assert isinstance(events[-1], Done) and events[-1].finish_reason == "stop"
    drafts = replies.draw_all(model, [request], 0, Sampling(steps=1))
    replies.render_all(model, drafts, 0, Sampling(steps=1))
    (part,) = [part for part in drafts[0].parts if part["type"] == "image"]
    assert "refused" in part["failed"] and "image" not in part


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_only_pipelines_that_have_a_checker_can_want_one(kind: str, profile: Profile):
    settings = profile.model_dump()
    settings["decoders"][kind]["safety_checker"] = True
    with pytest.raises(ValueError, match=f"decoders.{kind}.*pipeline has none"):
        Profile.parse(settings, "test")


def test_a_checker_that_is_wanted_and_absent_is_said(profile: Profile):
    with pytest.raises(ValueError, match="has no safety checker.*set it to false"):
        Decoder(checked(profile.decoders["image"]), CPU)


# --- files of another model ---


def test_a_text_encoder_with_weights_missing_is_refused(
    old: dict[str, DecoderConfig], tmp_path: Path
):
    folder = tmp_path / "cut"
    shutil.copytree(old["image"].folder, folder)
    file = folder / "text_encoder" / "pytorch_model.bin"
    state = {k: v.clone() for k, v in torch.load(file).items() if "layers.1." not in k}
    save_file(state, file.with_name("model.safetensors"))
    file.unlink()
    with pytest.raises(ValueError, match="weights of CLIPTextModel are missing: .*layers.1"):
        CaptionEncoder(old["image"].model_copy(update={"folder": str(folder)}), CPU)


# --- what a pipeline takes while it works ---


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_grows_with_what_is_asked_for(kind: str, decoders: dict[str, Decoder]):
    count: Callable[..., int] = decoders[kind].working_bytes
    assert count(4) > 2 * count(1) > 0
    longer = {"image": count(1), "audio": count(1, None, 2.0), "video": count(1, 16, None)}
    assert (longer[kind] > 3 * count(1)) == (kind != "image")
    weights = sum(tensor.nbytes for tensor in states(decoders[kind].pipeline).values())
    assert 0 <= decoders[kind].nbytes - weights <= 16 * 8  # numbers of positions, kept in no file
