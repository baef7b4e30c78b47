"""SigLIP, Whisper and PE-AV of random weights and few layers, in folders as they are published, and an ImageBind of all senses."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import ImageBindConfig, SenseConfig

LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def write_siglip(folder: Path) -> Path:
    """The layout of google/siglip2-base-patch16-224, text model and all: 16 patches of 32 x 32 pixels, 16 wide."""
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config=LAYERS | {"vocab_size": 32, "max_position_embeddings": 8},
        vision_config=LAYERS | {"image_size": 32, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_whisper(folder: Path) -> Path:
    """The layout of openai/whisper-small, decoder and all: 1,500 states of 30 s, 12 wide."""
    torch.manual_seed(1)
    config = WhisperConfig(
        vocab_size=64, num_mel_bins=16, d_model=12, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, begin_suppress_tokens=None,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    return folder


def write_pe_av(folder: Path) -> Path:
    """The layout of facebook/pe-av-small-16-frame with small sizes throughout; needs timm and torchvision."""
    from transformers import (
        PeAudioFeatureExtractor,
        PeAudioVideoConfig,
        PeAudioVideoModel,
        PeVideoVideoProcessor,
    )

    torch.manual_seed(2)
    tower = LAYERS | {"head_dim": 8}
    eyes = {
        "architecture": "vit_pe_core_tiny_patch16_384",
        "num_classes": 16,
        "model_args": {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2},
    }
    ears = {"downsampling_ratios": [2, 8, 10, 12], "encoder_hidden_size": 2, "codebook_dim": 8}
    config = PeAudioVideoConfig(
        text_config=LAYERS | {"vocab_size": 64, "pad_token_id": 0, "cls_token_id": 1},
        audio_video_config=tower
        | {
            "audio_config": tower | {"dac_config": ears},
            "video_config": tower | {"vision_config": eyes},
        },
    )
    PeAudioVideoModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    does = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    PeVideoVideoProcessor(
        size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, **does
    ).save_pretrained(folder)
    PeAudioFeatureExtractor().save_pretrained(folder)
    return folder


def write_imagebind(folder: Path) -> Path:
    """An ImageBind of all six senses, 8 wide, which sees 32 x 32 pixels; its texts cannot be read."""
    torch.manual_seed(3)
    sense = SenseConfig(width=8, blocks=1, heads=2, scale=5.0)
    config = ImageBindConfig(
        embed_dim=12, vision=sense, audio=sense, text=sense, depth=sense, thermal=sense, imu=sense,
        image_size=32, vision_patch=8, mel_frames=64, vocab_size=16, context_length=8, video_clips=2,
        video_clip_seconds=None, video_crops=1,
    )  # fmt: skip
    ImageBind(config).save(folder, torch.float32)
    return folder
