"""What a decoder's pipeline is built of: the configurations of its UNet, autoencoder, text encoders and vocoder.

Of a pipeline on disk they are its own; of one that is still to be fetched those of the published models, by their repository,
so that memory can be planned before gigabytes come. Most of what was published are the defaults of today's classes: the tables
here have the rest.
"""

from __future__ import annotations

import inspect
import json
from functools import cache
from typing import Any

import diffusers
from transformers import AutoConfig

from anytoany_lib.config import DecoderConfig, resolve

Blueprint = dict[str, dict[str, Any]]
PARTS = (
    *("unet", "transformer", "vae", "vocoder", "projection_model"),
    *("text_encoder", "text_encoder_2"),
)


def _clip(width: int, layers: int, **other: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": width // 64}
    return {"model_type": "clip_text_model", **sizes, **heads, **other}


def _vae(*widths: int, **other: Any) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": 2,
        **other,
    }


_PICTURE_VAE = _vae(128, 256, 512, 512)
_PICTURES: Blueprint = {
    "unet": {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "sample_size": 64},
    "vae": _PICTURE_VAE,
    "text_encoder": _clip(768, 12),
}
_LARGE_PICTURES: Blueprint = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
    },
    "vae": _PICTURE_VAE,
    "text_encoder": _clip(768, 12),
    "text_encoder_2": _clip(1280, 32, projection_dim=1280, hidden_act="gelu"),
}
_CLIPS: Blueprint = {
    "unet": {"_class_name": "UNet3DConditionModel", "sample_size": 32},
    "vae": _PICTURE_VAE,
    "text_encoder": _clip(1024, 23, hidden_act="gelu"),
}


def _sounds(width: int, top: int) -> Blueprint:
    """AudioLDM, whose sizes differ in the widths of their UNets alone."""
    widths = [width, 2 * width, 3 * width, top]
    return {
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "in_channels": 8,
            "out_channels": 8,
            "block_out_channels": widths,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
            "cross_attention_dim": widths,
            "class_embed_type": "simple_projection",
            "class_embeddings_concat": True,
            "projection_class_embeddings_input_dim": 512,
            "sample_size": 128,
        },
        "vae": _vae(128, 256, 512, in_channels=1, out_channels=1, latent_channels=8),
        "text_encoder": {"model_type": "clap_text_model"},
        "vocoder": {
            "model_type": "speecht5_hifigan",
            "model_in_dim": 64,
            "upsample_initial_channel": 1024,
            "upsample_rates": [5, 4, 2, 2, 2],
            "upsample_kernel_sizes": [16, 16, 8, 4, 4],
            "normalize_before": False,
        },
    }


def _t5(model_type: str, width: int, inner: int, layers: int, **other: Any) -> dict[str, Any]:
    sizes = {"d_model": width, "d_ff": inner, "num_layers": layers, "num_heads": width // 64}
    return {"model_type": model_type, **sizes, **other}


_STABLE_AUDIO: Blueprint = {
    "transformer": {"_class_name": "StableAudioDiTModel"},
    "vae": {"_class_name": "AutoencoderOobleck"},
    "text_encoder": _t5("t5", 768, 3072, 12),
}
_WAN: Blueprint = {
    "transformer": {
        "_class_name": "WanTransformer3DModel",
        "num_attention_heads": 12,
        "num_layers": 30,
        "ffn_dim": 8960,
    },
    "vae": {"_class_name": "AutoencoderKLWan"},
    "text_encoder": _t5("umt5", 4096, 10240, 24, vocab_size=256384),
}
_DEEP = [*["ResBlock"] * 3, *["EfficientViTBlock"] * 3]


def _sana(layers: int, heads: int, cross: int, cross_width: int) -> Blueprint:
    """SANA-Sprint, whose sizes differ in their transformers alone."""
    return {
        "transformer": {
            "_class_name": "SanaTransformer2DModel",
            "num_layers": layers,
            "num_attention_heads": heads,
            "num_cross_attention_heads": cross,
            "cross_attention_head_dim": cross_width,
            "cross_attention_dim": cross * cross_width,
            "qk_norm": "rms_norm_across_heads",
            "guidance_embeds": True,
        },
        "vae": {
            "_class_name": "AutoencoderDC",
            "encoder_block_types": _DEEP,
            "decoder_block_types": _DEEP,
            "upsample_block_type": "interpolate",
            "downsample_block_type": "Conv",
        },
        "text_encoder": {"model_type": "gemma2"},
    }


_OF_REPOSITORY: dict[str, Blueprint] = {
    "cvssp/audioldm-s-full-v2": _sounds(128, 640),
    "cvssp/audioldm-m-full": _sounds(192, 960),
    "Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers": _sana(28, 36, 16, 72),
}
_OF_PIPELINE: dict[str, Blueprint] = {
    "stable-diffusion": _PICTURES,
    "stable-diffusion-xl": _LARGE_PICTURES,
    "audioldm": _sounds(256, 1280),
    "text-to-video": _CLIPS,
    "animatediff": _PICTURES,
    "stable-audio": _STABLE_AUDIO,
    "wan": _WAN,
    "sana-sprint": _sana(20, 70, 20, 112),
}


def blueprint(config: DecoderConfig) -> Blueprint:
    """The configuration of each part of a pipeline, by the part's folder; read from there if it is on disk.

    A repository that is not known is taken for the published model of its pipeline that the full-size profiles use.
    """
    plans = _plans(config)
    moves = config.pipeline == "animatediff"
    return plans | {"unet": _in_motion(plans["unet"])} if moves else plans


def _in_motion(unet: dict[str, Any]) -> dict[str, Any]:
    """The UNet of pictures with AnimateDiff's motion modules in it."""
    blocks = {
        side: [block.replace("2D", "Motion") for block in unet[side]]
        for side in ("down_block_types", "up_block_types")
    }
    heads = {"num_attention_heads": unet["attention_head_dim"]}
    known = inspect.signature(diffusers.UNetMotionModel).parameters
    kept = {name: value for name, value in unet.items() if name in known}
    return kept | blocks | heads | {"_class_name": "UNetMotionModel"}


def _plans(config: DecoderConfig) -> Blueprint:
    folder = resolve(config.folder)
    if (folder / "model_index.json").is_file():
        files = {part: folder / part / "config.json" for part in PARTS}
        return {
            part: json.loads(file.read_text(encoding="utf-8"))
            for part, file in files.items()
            if file.is_file()
        }
    return _published((config.source and config.source.hub) or "", config.pipeline)


@cache
def _published(hub: str, pipeline: str) -> Blueprint:
    plans = _OF_REPOSITORY.get(hub, _OF_PIPELINE[pipeline])
    return {part: _whole(plan) for part, plan in plans.items()}


def _whole(plan: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of its class for all that it does not say."""
    if "model_type" in plan:
        return AutoConfig.for_model(**plan).to_dict()
    settings = inspect.signature(getattr(diffusers, plan["_class_name"])).parameters.values()
    return {one.name: one.default for one in settings if one.default is not one.empty} | plan


def factor(plans: Blueprint) -> int:
    """How many pixels, or frames of a log-mel, of a side one latent stands for."""
    return 2 ** (len(plans["vae"]["block_out_channels"]) - 1)
