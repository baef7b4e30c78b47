"""What is published of the diffusion pipelines that the profiles name."""

from __future__ import annotations

from typing import Any

from .layout import Config, Part, Repository


def _clip(width: int, layers: int, heads: int, act: str, dtype: str) -> Config:
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": act,
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": 768 if width == 768 else 512,
        "torch_dtype": dtype,
        "vocab_size": 49408,
    }


def _vae(channels: list[int], latents: int, colours: int, version: str, **other: Any) -> Config:
    depth = len(channels)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": version,
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * depth,
        "in_channels": colours,
        "latent_channels": latents,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": colours,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * depth,
        **other,
    }


def _unet(
    cls: str, version: str, channels: list[int], cross: Any, heads: int, **other: Any
) -> Config:
    three = "3D" if "3D" in cls else "2D"
    return {
        "_class_name": cls,
        "_diffusers_version": version,
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": channels,
        "cross_attention_dim": cross,
        "down_block_types": [*[f"CrossAttnDownBlock{three}"] * 3, f"DownBlock{three}"],
        "downsample_padding": 1,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "up_block_types": [f"UpBlock{three}", *[f"CrossAttnUpBlock{three}"] * 3],
        **other,
    }


def _scheduler(cls: str, version: str, start: float, end: float, **other: Any) -> Config:
    return {
        "_class_name": cls,
        "_diffusers_version": version,
        "beta_end": end,
        "beta_schedule": "scaled_linear",
        "beta_start": start,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
        **other,
    }


_DDIM = {
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "thresholding": False,
}


def _pipeline(cls: str, version: str, **parts: str) -> Config:
    """model_index.json; parts as "library.Class"."""
    return {
        "_class_name": cls,
        "_diffusers_version": version,
        **{name: one.rsplit(".", 1) for name, one in parts.items()},
    }


_BOTH = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.fp16.safetensors",
    "pytorch_model.fp16.bin",
)
_BOTH_D = tuple(
    f"diffusion_{name}" if name.startswith("py") else f"diffusion_pytorch_{name}" for name in _BOTH
)
_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
STABLE_DIFFUSION = Repository(
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    (
        Part("text_encoder", "clip", _clip(768, 12, 12, "quick_gelu", "float32"), "F32", _BOTH),
        Part(
            "unet",
            "unet",
            _unet(
                "UNet2DConditionModel",
                "0.6.0",
                [320, 640, 1280, 1280],
                768,
                8,
                center_input_sample=False,
                flip_sin_to_cos=True,
                freq_shift=0,
                sample_size=64,
            ),
            "F32",
            (
                *_BOTH_D,
                "diffusion_pytorch_model.non_ema.safetensors",
                "diffusion_pytorch_model.non_ema.bin",
            ),
        ),
        Part("vae", "vae", _vae([128, 256, 512, 512], 4, 3, "0.6.0"), "F32", _BOTH_D),
        Part(
            "safety_checker",
            "safety",
            {
                "architectures": ["StableDiffusionSafetyChecker"],
                "model_type": "clip",
                "projection_dim": 768,
                "text_config": {
                    "hidden_size": 768,
                    "intermediate_size": 3072,
                    "num_attention_heads": 12,
                    "num_hidden_layers": 12,
                    "model_type": "clip_text_model",
                },
                "vision_config": _VISION | {"model_type": "clip_vision_model"},
            },
            "F32",
            _BOTH,
        ),
    ),
    {
        "model_index.json": _pipeline(
            "StableDiffusionPipeline",
            "0.6.0",
            feature_extractor="transformers.CLIPImageProcessor",
            safety_checker="stable_diffusion.StableDiffusionSafetyChecker",
            scheduler="diffusers.PNDMScheduler",
            text_encoder="transformers.CLIPTextModel",
            tokenizer="transformers.CLIPTokenizer",
            unet="diffusers.UNet2DConditionModel",
            vae="diffusers.AutoencoderKL",
        ),
        "scheduler/scheduler_config.json": _scheduler(
            "PNDMScheduler", "0.6.0", 0.00085, 0.012, skip_prk_steps=True
        ),
        "feature_extractor/preprocessor_config.json": {
            "crop_size": 224,
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": 224,
        },
    },
    {"tokenizer": "clip"},
    {
        "v1-5-pruned-emaonly.ckpt": 4265380512,
        "v1-5-pruned-emaonly.safetensors": 4265146304,
        "v1-5-pruned.ckpt": 7703807346,
        "v1-5-pruned.safetensors": 7703324286,
        "v1-inference.yaml": 1873,
    },
)


_CLAP: Config = {
    "architectures": ["ClapTextModelWithProjection"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 514,
    "model_type": "clap_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 512,
    "projection_hidden_act": "relu",
    "projection_hidden_size": 768,
    "torch_dtype": "float32",
    "type_vocab_size": 1,
    "vocab_size": 50265,
}
_VOCODER: Config = {
    "architectures": ["SpeechT5HifiGan"],
    "initializer_range": 0.01,
    "leaky_relu_slope": 0.1,
    "model_in_dim": 64,
    "model_type": "hifigan",
    "normalize_before": False,
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "resblock_kernel_sizes": [3, 7, 11],
    "sampling_rate": 16000,
    "torch_dtype": "float32",
    "upsample_initial_channel": 1024,
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "upsample_rates": [5, 4, 2, 2, 2],
}


def audioldm(name: str, channels: list[int]) -> Repository:
    """AudioLDM of one size, which is that of its UNet."""
    version = "0.15.0.dev0"
    down = ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3]
    unet = _unet("UNet2DConditionModel", version, channels, channels, 8) | {
        "center_input_sample": False,
        "class_embed_type": "simple_projection",
        "class_embeddings_concat": True,
        "down_block_types": down,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 8,
        "out_channels": 8,
        "projection_class_embeddings_input_dim": 512,
        "sample_size": 128,
        "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
    }
    vae = _vae([128, 256, 512], 8, 1, version, scaling_factor=0.9392935633659363)
    bin_d, bin_t = ("diffusion_pytorch_model.bin",), ("pytorch_model.bin",)
    return Repository(
        name,
        (
            Part("text_encoder", "clap", _CLAP, "F32", bin_t),
            Part("unet", "unet", unet, "F32", bin_d),
            Part("vae", "vae", vae, "F32", bin_d),
            Part("vocoder", "vocoder", _VOCODER, "F32", bin_t),
        ),
        {
            "model_index.json": _pipeline(
                "AudioLDMPipeline",
                version,
                scheduler="diffusers.DDIMScheduler",
                text_encoder="transformers.ClapTextModelWithProjection",
                tokenizer="transformers.RobertaTokenizerFast",
                unet="diffusers.UNet2DConditionModel",
                vae="diffusers.AutoencoderKL",
                vocoder="transformers.SpeechT5HifiGan",
            ),
            "scheduler/scheduler_config.json": _scheduler(
                "DDIMScheduler", version, 0.0015, 0.0195, **_DDIM
            ),
        },
        {"tokenizer": "roberta"},
    )


ZEROSCOPE = Repository(
    "cerspense/zeroscope_v2_576w",
    (
        Part(
            "text_encoder",
            "clip",
            _clip(1024, 23, 16, "gelu", "float16"),
            "F16",
            ("pytorch_model.bin",),
        ),
        Part(
            "unet",
            "unet3d",
            _unet(
                "UNet3DConditionModel",
                "0.17.0.dev0",
                [320, 640, 1280, 1280],
                1024,
                64,
                sample_size=32,
            ),
            "F16",
            ("diffusion_pytorch_model.bin",),
        ),
        Part(
            "vae",
            "vae",
            _vae([128, 256, 512, 512], 4, 3, "0.17.0.dev0", scaling_factor=0.18215),
            "F16",
            ("diffusion_pytorch_model.bin",),
        ),
    ),
    {
        "model_index.json": _pipeline(
            "TextToVideoSDPipeline",
            "0.17.0.dev0",
            scheduler="diffusers.DDIMScheduler",
            text_encoder="transformers.CLIPTextModel",
            tokenizer="transformers.CLIPTokenizer",
            unet="diffusers.UNet3DConditionModel",
            vae="diffusers.AutoencoderKL",
        ),
        "scheduler/scheduler_config.json": _scheduler(
            "DDIMScheduler", "0.17.0.dev0", 0.00085, 0.012, skip_prk_steps=True, **_DDIM
        ),
    },
    {"tokenizer": "clip, padded with !"},
    # Another program's files, of a size that is not known for certain.
    {
        "zs2_576w/open_clip_pytorch_model.bin": 1400000000,
        "zs2_576w/text2video_pytorch_model.pth": 2800000000,
    },
)
