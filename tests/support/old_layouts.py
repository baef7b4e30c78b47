"""Diffusion pipelines of random weights in the layout of years ago that published ones still have.

Text encoders as pickled `.bin` with `text_model.` before their names (and `position_ids` among them), the attention of
autoencoders as query, key, value and proj_attn, Stable Diffusion with PNDM and a safety checker, nothing in safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AudioLDMPipeline,
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from anytoany_lib.config import DecoderConfig, resolve

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
PNDM = {
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
    "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
    "clip_sample": False,
}  # fmt: skip
DDIM = {
    "_class_name": "DDIMScheduler", "_diffusers_version": "0.15.0.dev0", "beta_end": 0.0195,
    "beta_schedule": "scaled_linear", "beta_start": 0.0015, "clip_sample": False,
    "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.995, "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False,
    "steps_offset": 1, "thresholding": False, "trained_betas": None,
}  # fmt: skip
WIDTH = 32


def _vae(channels: int = 3) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=32,
    )


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(resolve("ckpt/tiny/image/tokenizer"))


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def safety_checker(refuses: bool) -> StableDiffusionSafetyChecker:
    """One of random weights that refuses every picture, or none: by its thresholds, as the published one does."""
    seen = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=seen, projection_dim=8))
    checker.concept_embeds_weights.data.fill_(-2.0 if refuses else 2.0)  # against a cosine
    checker.special_care_embeds_weights.data.fill_(2.0)
    return checker


def _unet(**others) -> UNet2DConditionModel:
    settings = {
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**(settings | others))


def _written(pipeline, folder: Path, scheduler: dict) -> Path:
    """Saves a pipeline, then writes its parts as they were written then."""
    pipeline.save_pretrained(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2))
    for file in folder.glob("*/*.safetensors"):
        state = load_file(file)
        part, model = file.parent.name, file.stem
        if part == "vae":
            state = {_old(name): tensor for name, tensor in state.items()}
        if "embeddings.token_embedding.weight" in state:
            state = {f"text_model.{name}": tensor for name, tensor in state.items()}
            state["text_model.embeddings.position_ids"] = torch.arange(16)[None]
        if part == "safety_checker":
            state = {_prefixed(name): tensor for name, tensor in state.items()}
            state["vision_model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        names = {"model": "pytorch_model.bin", "diffusion_pytorch_model": f"{model}.bin"}
        torch.save(state, file.with_name(names[model]))
        file.unlink()
    return folder


def _prefixed(name: str) -> str:
    return f"vision_model.{name}" if name.startswith("vision_model.") else name


def _old(name: str) -> str:
    if "attentions" not in name:
        return name
    for new, old in OLD_NAMES.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def stable_diffusion(folder: Path, refuses: bool = False) -> DecoderConfig:
    """A Stable Diffusion of 32 x 32 pixels, with PNDM and a safety checker."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=PNDMScheduler.from_config(PNDM),
        safety_checker=safety_checker(refuses),
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    )
    return DecoderConfig(
        pipeline="stable-diffusion",
        folder=str(_written(pipeline, folder, PNDM)),
        signals=4,
        condition=(16, WIDTH),
        steps=4,
        guidance=3.0,
        options={"height": 32, "width": 32},
    )


def text_to_video(folder: Path) -> DecoderConfig:
    """Clips of four frames of 32 x 32 pixels."""
    torch.manual_seed(1)
    tokenizer = _tokenizer()
    unet = UNet3DConditionModel(
        sample_size=16,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
    )
    pipeline = TextToVideoSDPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler.from_config(DDIM),
    )
    return DecoderConfig(
        pipeline="text-to-video",
        folder=str(_written(pipeline, folder, DDIM)),
        signals=4,
        condition=(16, WIDTH),
        steps=3,
        guidance=3.0,
        options={"height": 32, "width": 32, "num_frames": 4},
        fps=4,
    )


def audioldm(folder: Path) -> DecoderConfig:
    """Sounds of half a second at 16 kHz, told by a CLAP that reads up to 60 tokens."""
    torch.manual_seed(2)
    tokenizer = AutoTokenizer.from_pretrained(resolve("ckpt/tiny/audio/tokenizer"))
    tokenizer.model_max_length = 60
    config = ClapTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        projection_dim=WIDTH,
        pad_token_id=1,
    )
    unet = _unet(
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=(None, None),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=WIDTH,
        class_embeddings_concat=True,
    )
    hifigan = SpeechT5HifiGanConfig(
        model_in_dim=64,
        sampling_rate=16000,
        upsample_initial_channel=64,
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4],
        normalize_before=False,
    )
    pipeline = AudioLDMPipeline(
        vae=_vae(1),
        text_encoder=ClapTextModelWithProjection(config),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler.from_config(DDIM),
        vocoder=SpeechT5HifiGan(hifigan),
    )
    return DecoderConfig(
        pipeline="audioldm",
        folder=str(_written(pipeline, folder, DDIM)),
        signals=4,
        condition=(WIDTH,),
        steps=3,
        guidance=3.0,
        options={"audio_length_in_s": 0.5},
    )
