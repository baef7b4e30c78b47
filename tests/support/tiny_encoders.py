"""CLIP and CLAP of random weights, in folders such as their processors and `save_pretrained` write."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    RobertaTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from anytoany_lib.config import resolve

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def write_clip(folder: Path) -> Path:
    """A CLIP of one layer that sees 32 x 32 pixels, with the vocabulary of the tiny encoder."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(resolve("ckpt/tiny/encoder"))
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    config = CLIPConfig(
        text_config=TINY | words | ends,
        vision_config=TINY | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    return folder


def write_clap(folder: Path) -> Path:
    """A CLAP of few layers that hears one second, fused as the published one is; it reads bytes."""
    torch.manual_seed(0)
    signs = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *bytes_to_unicode().values()]
    tokenizer = RobertaTokenizer({sign: number for number, sign in enumerate(signs)}, [])
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 18, "pad_token_id": 1}
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "depths": [1, 1], "num_attention_heads": [1, 1], "window_size": 4, "enable_fusion": True,
        "patch_size": 4, "patch_stride": [4, 4], "fusion_type": None,
    }  # fmt: skip
    config = ClapConfig(text_config=TINY | words, audio_config=audio, projection_dim=8)
    ClapModel(config).save_pretrained(folder)
    ears = ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, max_length_s=1, hop_length=80, frequency_max=4000
    )
    ClapProcessor(ears, tokenizer).save_pretrained(folder)
    return folder
