"""What a decoder's pipeline is built of: the configurations of its UNet, autoencoder, text encoders and vocoder.

Of a pipeline on disk they are its own; of one that is still to be fetched those of the published models, by their repository,
so that memory can be planned before gigabytes come.
"""

from __future__ import annotations

import json
from typing import Any

from anytoany_lib.config import DecoderConfig, resolve

Blueprint = dict[str, dict[str, Any]]
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "vocoder")


def _clip(width: int, layers: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "vocab_size": 49408,
        **other,
    }


def _vae(widths: tuple[int, ...], **other: Any) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
        **other,
    }


_WIDTHS = (320, 640, 1280, 1280)
_PICTURE_VAE = _vae((128, 256, 512, 512))
_PICTURES: Blueprint = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": list(_WIDTHS),
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "sample_size": 64,
    },
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
    "vae": _PICTURE_VAE | {"sample_size": 1024, "force_upcast": True},
    "text_encoder": _clip(768, 12),
    "text_encoder_2": _clip(1280, 32, projection_dim=1280, hidden_act="gelu"),
}
_CLIPS: Blueprint = {
    "unet": {
        "_class_name": "UNet3DConditionModel",
        "block_out_channels": list(_WIDTHS),
        "down_block_types": [*["CrossAttnDownBlock3D"] * 3, "DownBlock3D"],
        "up_block_types": ["UpBlock3D", *["CrossAttnUpBlock3D"] * 3],
        "attention_head_dim": 64,
        "cross_attention_dim": 1024,
        "sample_size": 32,
    },
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
            "attention_head_dim": 8,
            "cross_attention_dim": widths,
            "class_embed_type": "simple_projection",
            "class_embeddings_concat": True,
            "projection_class_embeddings_input_dim": 512,
            "sample_size": 128,
        },
        "vae": _vae((128, 256, 512), in_channels=1, out_channels=1, latent_channels=8),
        "text_encoder": {
            "model_type": "clap_text_model",
            "vocab_size": 50265,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "projection_dim": 512,
            "hidden_act": "gelu",
        },
        "vocoder": {
            "model_type": "hifigan",
            "model_in_dim": 64,
            "sampling_rate": 16000,
            "upsample_initial_channel": 1024,
            "upsample_rates": [5, 4, 2, 2, 2],
            "upsample_kernel_sizes": [16, 16, 8, 4, 4],
            "normalize_before": False,
        },
    }


_OF_REPOSITORY: dict[str, Blueprint] = {
    "cvssp/audioldm-s-full-v2": _sounds(128, 640),
    "cvssp/audioldm-m-full": _sounds(192, 960),
}
_OF_PIPELINE: dict[str, Blueprint] = {
    "stable-diffusion": _PICTURES,
    "stable-diffusion-xl": _LARGE_PICTURES,
    "audioldm": _sounds(256, 1280),
    "text-to-video": _CLIPS,
}


def blueprint(config: DecoderConfig) -> Blueprint:
    """The configuration of each part of a pipeline, by the part's folder; read from there if it is on disk.

    A repository that is not known is taken for the published model of its pipeline that the full-size profiles use.
    """
    folder = resolve(config.folder)
    if (folder / "model_index.json").is_file():
        files = {part: folder / part / "config.json" for part in PARTS}
        return {
            part: json.loads(file.read_text(encoding="utf-8"))
            for part, file in files.items()
            if file.is_file()
        }
    hub = config.source.hub if config.source else None
    return _OF_REPOSITORY.get(hub or "", _OF_PIPELINE[config.pipeline])


def factor(plans: Blueprint) -> int:
    """How many pixels, or frames of a log-mel, of a side one latent stands for."""
    return 2 ** (len(plans["vae"]["block_out_channels"]) - 1)
