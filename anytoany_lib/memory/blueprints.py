"""What a decoder's pipeline is built of: the configurations of its UNet, autoencoder, text encoders and vocoder.

Of a pipeline on disk they are its own; of one that is still to be fetched those of the published models, by their repository,
so that memory can be planned before gigabytes come.
"""

from __future__ import annotations

import json
from typing import Any

from anytoany_lib.config import DecoderConfig, resolve

Blueprint = dict[str, dict[str, Any]]
PARTS = (
    *("unet", "transformer", "vae", "vocoder", "projection_model"),
    *("text_encoder", "text_encoder_2"),
)


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


_T5 = {"model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072}
_STABLE_AUDIO: Blueprint = {
    "transformer": {
        "_class_name": "StableAudioDiTModel",
        "sample_size": 1024,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "num_key_value_attention_heads": 12,
        "num_layers": 24,
        "global_states_input_dim": 1536,
    },
    "vae": {
        "_class_name": "AutoencoderOobleck",
        "audio_channels": 2,
        "channel_multiples": [1, 2, 4, 8, 16],
        "decoder_channels": 128,
        "decoder_input_channels": 64,
        "downsampling_ratios": [2, 4, 4, 8, 8],
        "encoder_hidden_size": 128,
    },
    "text_encoder": _T5 | {"num_layers": 12, "num_heads": 12, "feed_forward_proj": "relu"},
}
_WAN: Blueprint = {
    "transformer": {
        "_class_name": "WanTransformer3DModel",
        "attention_head_dim": 128,
        "num_attention_heads": 12,
        "num_layers": 30,
        "ffn_dim": 8960,
        "in_channels": 16,
        "patch_size": [1, 2, 2],
        "text_dim": 4096,
    },
    "vae": {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16},
    "text_encoder": {
        "model_type": "umt5",
        "vocab_size": 256384,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
}
_DEEP = {
    "block_types": [*["ResBlock"] * 3, *["EfficientViTBlock"] * 3],
    "block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "qkv_multiscales": [[], [], [], [5], [5], [5]],
}


def _sana(layers: int, heads: int, cross: int, cross_width: int) -> Blueprint:
    """SANA-Sprint, whose sizes differ in their transformers alone."""
    return {
        "transformer": {
            "_class_name": "SanaTransformer2DModel",
            "sample_size": 32,
            "num_layers": layers,
            "num_attention_heads": heads,
            "attention_head_dim": 32,
            "num_cross_attention_heads": cross,
            "cross_attention_head_dim": cross_width,
            "cross_attention_dim": cross * cross_width,
            "caption_channels": 2304,
            "mlp_ratio": 2.5,
            "qk_norm": "rms_norm_across_heads",
            "guidance_embeds": True,
        },
        "vae": {
            "_class_name": "AutoencoderDC",
            "latent_channels": 32,
            "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
            "decoder_layers_per_block": [3] * 6,
            "upsample_block_type": "interpolate",
            "downsample_block_type": "Conv",
            **{f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in _DEEP.items()},
        },
        "text_encoder": {
            "model_type": "gemma2",
            "vocab_size": 256000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
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
    heads = unet["attention_head_dim"]
    return unet | blocks | {"_class_name": "UNetMotionModel", "num_attention_heads": heads}


def _plans(config: DecoderConfig) -> Blueprint:
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
