"""Diffusion pipelines of 2025 and 2026 with random weights and few layers, in the layout that they are published in.

`wan`, `stable_audio`, `sana_sprint` and `animatediff` write one each and say how a profile names it. Classes, folders, schedulers and
what a configuration says are the published ones; widths and numbers of layers are not, and tokenizers know letters and a few words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLWan,
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    MotionAdapter,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from old_layouts import WIDTH, stable_diffusion
from safetensors.torch import save_file
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from anytoany_lib.config import DecoderConfig

LETTERS = "abcdefghijklmnopqrstuvwxyz.,:;->'\"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
WORDS = ("red", "bell", "blue", "boat", "left", "prompt", "moving", "rings")
LIGHTNING = {"class": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "beta_schedule": "linear"}  # fmt: skip


def _t5_words(longest: int) -> T5TokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -6.0) for letter in LETTERS]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=longest)


def _gemma_words() -> GemmaTokenizerFast:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, "re", "red", "▁red"]
    merges = [("r", "e"), ("re", "d"), ("▁", "red")]
    return GemmaTokenizerFast(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=10**30,
        add_bos_token=True,
    )


def _t5(cls: type, config: type, words: int, **other: Any) -> Any:
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return cls(config(vocab_size=words, decoder_start_token_id=0, **sizes, **other)).eval()


def wan(folder: Path) -> DecoderConfig:
    """Wan 2.1: clips of five frames of 32 x 32 pixels."""
    torch.manual_seed(3)
    tokenizer = _t5_words(512)
    text_encoder = _t5(UMT5EncoderModel, UMT5Config, len(tokenizer), feed_forward_proj="gated-gelu")
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    WanPipeline(tokenizer, text_encoder, vae, scheduler, transformer).save_pretrained(folder)
    return DecoderConfig(
        pipeline="wan",
        folder=str(folder),
        signals=4,
        condition=(32, WIDTH),
        padded_to=512,
        steps=3,
        guidance=5.0,
        options={"height": 32, "width": 32, "num_frames": 5},
        fps=16,
    )


def stable_audio(folder: Path) -> DecoderConfig:
    """Stable Audio Open: sounds of up to 0.05 s at 44.1 kHz, of 32 latents."""
    torch.manual_seed(4)
    tokenizer = _t5_words(128)
    transformer = StableAudioDiTModel(
        sample_size=32,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=4,
        cross_attention_dim=WIDTH,
        time_proj_dim=16,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4, 8],
        channel_multiples=[1, 2, 4],
        decoder_channels=8,
        decoder_input_channels=4,
        sampling_rate=44100,
    )
    scheduler = CosineDPMSolverMultistepScheduler(
        solver_order=2,
        prediction_type="v_prediction",
        sigma_data=1.0,
        sigma_schedule="exponential",
    )
    StableAudioPipeline(
        vae,
        _t5(T5EncoderModel, T5Config, len(tokenizer)),
        StableAudioProjectionModel(WIDTH, WIDTH, 0, 512),
        tokenizer,
        transformer,
        scheduler,
    ).save_pretrained(folder)
    return DecoderConfig(
        pipeline="stable-audio",
        folder=str(folder),
        signals=4,
        condition=(32, WIDTH),
        padded_to=128,
        steps=4,
        guidance=7.0,
        options={"audio_end_in_s": 0.04},
    )


def sana_sprint(folder: Path) -> DecoderConfig:
    """SANA-Sprint: pictures of 64 x 64 pixels, four of their latents a side."""
    torch.manual_seed(5)
    tokenizer = _gemma_words()
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    transformer = SanaTransformer2DModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        caption_channels=WIDTH,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        qk_norm="rms_norm_across_heads",
        guidance_embeds=True,
        timestep_scale=1000.0,
    )
    widths = {"encoder_block_out_channels": (8, 8, 16), "decoder_block_out_channels": (8, 8, 16)}
    blocks = ("ResBlock", "ResBlock", "EfficientViTBlock")
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
        **widths,
    )
    pipeline = SanaSprintPipeline(
        tokenizer, Gemma2Model(config).eval(), vae, transformer, SCMScheduler()
    )
    pipeline.save_pretrained(folder)
    return DecoderConfig(
        pipeline="sana-sprint",
        folder=str(folder),
        signals=4,
        condition=(48, WIDTH),
        padded_to=300,
        steps=2,
        guidance=4.5,
        options={"height": 64, "width": 64, "use_resolution_binning": 0},
    )


def animatediff(folder: Path) -> DecoderConfig:
    """A Stable Diffusion of `old_layouts` in `folder`, and beside it a motion adapter as AnimateDiff-Lightning has one."""
    pictures = stable_diffusion(folder / "pictures")
    torch.manual_seed(6)
    settings = {"block_out_channels": (16, 32), "motion_layers_per_block": 1, "motion_norm_num_groups": 8, "motion_num_attention_heads": 2, "motion_max_seq_length": 8}  # fmt: skip
    motion = MotionAdapter(**settings)
    motion.save_config(folder)
    save_file(motion.state_dict(), folder / "motion_4step_diffusers.safetensors")
    return DecoderConfig(
        pipeline="animatediff",
        folder=pictures.folder,
        added={"file": str(folder / "motion_4step_diffusers.safetensors")},
        signals=4,
        condition=pictures.condition,
        scheduler=LIGHTNING,
        steps=4,
        guidance=1.0,
        options={"height": 32, "width": 32, "num_frames": 4},
        fps=8,
    )
