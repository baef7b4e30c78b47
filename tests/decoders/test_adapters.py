"""Adapters with other text encoders, on small random pipelines of the published classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import recent_layouts
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from anytoany_lib.config import DecoderConfig, Profile, resolve
from anytoany_lib.decoders.adapters import CaptionEncoder, caption_model_files
from anytoany_lib.decoders.pipelines import Decoder
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.frozen_models import FrozenModels
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.training.setup import _initial_model, swapped_decoders

CPU = torch.device("cpu")
WIDTHS, POOLED = (32, 48), 40


@pytest.fixture(scope="module")
def xl(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> DecoderConfig:
    """A Stable Diffusion XL of 64 x 64 pixels with random weights and the tiny decoder's vocabulary."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("xl")
    tokenizer = AutoTokenizer.from_pretrained(
        resolve(profile.decoders["image"].folder) / "tokenizer"
    )

    def text_config(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=16,
            projection_dim=POOLED,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8,
            sample_size=64,
        ),
        text_encoder=CLIPTextModel(text_config(WIDTHS[0])),
        text_encoder_2=CLIPTextModelWithProjection(text_config(WIDTHS[1])),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=sum(WIDTHS),
            attention_head_dim=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=POOLED + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(),
    ).save_pretrained(folder)
    return DecoderConfig(
        pipeline="stable-diffusion-xl",
        folder=str(folder),
        signals=4,
        condition=(17, sum(WIDTHS)),
        steps=3,
        guidance=5.0,
        options={"height": 64, "width": 64},
    )


def test_a_caption_condition_draws_what_the_pipeline_draws_from_the_caption(xl: DecoderConfig):
    caption = "a red bell"
    decoder = Decoder(xl, CPU)
    made = decoder.generate(CaptionEncoder(xl, CPU)([caption]), seeds=[3])[0]["image"]
    expected = decoder.pipeline(
        caption,
        negative_prompt="",
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=[torch.Generator("cpu").manual_seed(3)],
        **xl.options,
    ).images[0]
    assert np.array_equal(np.asarray(made), np.asarray(expected))
    assert len({path.parent.name for path in caption_model_files(xl)}) == 4


def test_a_model_with_the_adapter_draws_and_shows_its_steps(xl: DecoderConfig, profile: Profile):
    decoders = profile.decoders | {"image": xl}
    model = AnyToAny.from_profile(profile.model_copy(update={"decoders": decoders}), seed=0).eval()
    assert model.output_projections["image"].condition == (17, 80)
    with torch.no_grad():
        condition = model.project("image", torch.randn(1, 4, 576))
    steps = []
    made = model.render("image", condition, [0], None, None, lambda *at: steps.append(at))
    assert made[0]["image"].size == (64, 64)
    assert steps == [(1, 3, None), (2, 3, None), (3, 3, None)]


@pytest.mark.parametrize("pipeline", ["stable-diffusion", "stable-diffusion-xl"])
def test_previews_have_the_size_and_in_the_end_the_colours_of_the_picture(
    pipeline: str, xl: DecoderConfig, profile: Profile
):
    tiny = profile.decoders["image"]
    decoder = Decoder(xl if pipeline == "stable-diffusion-xl" else tiny, CPU)
    conditions = CaptionEncoder(decoder.config, CPU)(["a red bell", "a blue boat"])
    shown = {}

    def on_step(done: int, total: int, preview) -> None:
        shown[done] = preview

    how = (6, None, on_step, None, None, 3)
    with_previews = decoder.generate(conditions, [0, 1], *how)[0]["image"]
    plain = decoder.generate(conditions, [0, 1], 6)[0]["image"]
    assert np.array_equal(np.asarray(with_previews), np.asarray(plain))
    assert [step for step, preview in shown.items() if preview is not None] == [3, 6]
    assert shown[6].size == plain.size and shown[6].mode == "RGB"
    if pipeline == "stable-diffusion":  # the other autoencoder is random and knows no colours
        last, true = (
            np.asarray(image.resize((16, 16)), dtype=float).ravel() for image in (shown[6], plain)
        )
        assert np.abs(last - true).mean() < 20
        assert np.corrcoef(last, true)[0, 1] > 0.85


def test_clips_and_sounds_take_the_length_that_is_wished(model: AnyToAny):
    def made(kind: str, frames: int | None, seconds: float | None) -> np.ndarray:
        condition = torch.randn(1, *model.profile.decoders[kind].condition)
        part = model.render(kind, condition, [0], 1, None, None, frames, seconds)[0]
        return part[kind]

    assert len(made("video", 4, 1.0)) == 4 and len(made("video", None, 1.0)) == 8
    assert len(made("audio", 4, 1.0)) == 16_000 and len(made("audio", 4, None)) == 32_000
    assert made("image", 4, 1.0).size == (64, 64)


def test_caches_of_several_decoders_lie_side_by_side(
    xl: DecoderConfig, profile: Profile, toy_data: Path, tmp_path: Path
):
    data = tmp_path / "toy"
    shutil.copytree(toy_data, data)
    swapped = profile.model_copy(update={"decoders": profile.decoders | {"image": xl}})
    before, after = DatasetFeatures(profile, data), DatasetFeatures(swapped, data)
    before.check_captions()
    with pytest.raises(
        ValueError,
        match=r"image decoder.*\(17, 80\) each; captions-image is anot.*anytoany features",
    ):
        after.check_captions()
    captions = ["a red bell", "a blue boat"]
    assert after.lacking_captions("image", captions) == captions
    models = FrozenModels(swapped, CPU)
    assert after.fill_captions("image", captions, models, 60) == 2
    names = {path.name for path in (data / "features").glob("captions-*")}
    own = after.captions["image"].folder.name
    assert own.startswith("captions-image-") and names > {own, "captions-image"}
    for profile_of, width in ((profile, 128), (swapped, 80)):
        again = DatasetFeatures(profile_of, data)
        again.check_captions()
        assert again.captions["image"].shape[-1] == width and len(again.captions["image"]) > 0
    assert DatasetFeatures(swapped, data).caption("image", captions[0]).shape == (17, 80)


def test_pictures_and_clips_that_are_told_alike_have_one_cache(
    profile: Profile, toy_data: Path, tmp_path: Path
):
    clips = recent_layouts.animatediff(tmp_path)
    pictures = clips.model_copy(update={"pipeline": "stable-diffusion", "added": None})
    both = profile.model_copy(update={"decoders": {"image": pictures, "video": clips}})
    store = DatasetFeatures(both, toy_data)
    assert store.captions["image"] is store.captions["video"]
    shutil.copytree(clips.folder, tmp_path / "elsewhere")  # the same files in another folder
    clips = clips.model_copy(update={"folder": str(tmp_path / "elsewhere")})
    both = profile.model_copy(update={"decoders": {"image": pictures, "video": clips}})
    assert len({id(one) for one in DatasetFeatures(both, toy_data).captions.values()}) == 1


def test_another_decoder_trains_its_projection_alone(
    xl: DecoderConfig, profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture
):
    run = tmp_path / "run"
    shutil.copytree(resolve("ckpt/tiny/run"), run)
    record = runs.read_record(run)
    profile = profile.model_copy(update={"speech": runs.profile_of(record, run).speech})
    record |= {"profile": profile.model_dump(mode="json")}
    (run / runs.RECORD).write_text(json.dumps(record))
    decoders = profile.decoders | {"image": xl}
    swapped = profile.model_copy(update={"name": "mine", "decoders": decoders})
    assert swapped_decoders(profile, swapped) == ["image"]
    model = _initial_model(swapped, run, 0)
    said = capsys.readouterr()
    assert "image: its decoder is another one" in said.out + said.err
    kept = runs.tensors_in(run / runs.TENSORS)
    new = model.bridges()["output_projections"].state_dict()
    assert new["image.model.weight"].shape == (80, 256)
    for name, tensor in new.items():
        if not name.startswith("image."):
            assert torch.equal(tensor, kept[f"output_projections.{name}"]), name
    more = {"signals": 5} | {k: v for k, v in xl.model_dump().items() if k != "signals"}
    decoders = profile.decoders | {"image": DecoderConfig.model_validate(more)}
    other = profile.model_copy(update={"name": "mine", "decoders": decoders})
    with pytest.raises(
        ValueError, match="trained with profile tiny, not mine.*decoders.image.signals"
    ):
        _initial_model(other, run, 0)


def test_a_run_trained_for_one_decoder_is_refused_by_the_other(xl: DecoderConfig, profile: Profile):
    swapped = profile.model_copy(update={"decoders": profile.decoders | {"image": xl}})
    model = AnyToAny.from_profile(swapped, seed=0)
    with pytest.raises(
        ValueError,
        match=r"image.model.weight is \(128, 256\) instead of \(80, 256\).*anytoany features",
    ):
        model.load(resolve("ckpt/tiny/run"))
