"""The parts of the tiny AudioLDM: autoencoder, U-Net, text encoder and vocoder, and how they are kept on disk.

Shapes: samples (B, 32000) at 16 kHz; log-mels (B, 1, 200, 64), time first (`normalised_mels`); latents
(B, 4, 50, 16); captions are one L2-normalised vector each, (B, 128), given to the U-Net as a class
embedding beside the time embedding, which is how AudioLDM is told what to make.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AudioLDMPipeline, AutoencoderKL, ModelMixin, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from anytoany_lib.decoders.mels import HOP, MEL_BINS, RATE
from anytoany_lib.toyworld.normalised_mels import LEVELS, SAMPLES, band_tones
from anytoany_lib.toyworld.training.diffusion import plain_attention, replace_folder
from anytoany_lib.toyworld.training.text_encoder import POSITIONS, WIDTH

LATENTS = 4
FRAMES = SAMPLES // HOP
STEPS, GUIDANCE = 12, 2.0  # chosen by measuring, see notebook tiny_3_audio
_PADDED_PROMPT = WIDTH  # AudioLDMPipeline pads an empty negative prompt to as many tokens as the embedding is wide


def build_vae() -> AutoencoderKL:
    """Autoencoder of log-mel pictures, factor 4 in time and in mel bins."""
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=FRAMES,
    )


def build_vocoder() -> SpeechT5HifiGan:
    """Log-mel -> samples. HiFi-GAN's generator, but all of its depth is at 100 frames a second.

    One transposed convolution then goes to 16 kHz in overlapping windows of 20 ms. On a CPU this
    trains several times faster than raising the rate in four steps.
    """
    config = SpeechT5HifiGanConfig(
        model_in_dim=MEL_BINS,
        sampling_rate=RATE,
        upsample_initial_channel=256,
        upsample_rates=(1, 1, HOP),
        upsample_kernel_sizes=(3, 3, 2 * HOP),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
        normalize_before=False,
    )
    vocoder = SpeechT5HifiGan(config)
    for module in vocoder.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            module.reset_parameters()  # the library's start (0.01 wide) learns nothing for long
    _tune(vocoder)
    return vocoder


@torch.no_grad()
def _tune(vocoder: SpeechT5HifiGan) -> None:
    """Starts the vocoder as a bank of tones, one a mel band, each as loud as its band says.

    Left to itself it first learns to be silent, because a wrong tone costs more than none, and
    stays there. Here the first layer and the second undo the logarithm with four hinges a band, the
    third hands the loudness on, and the step to 16 kHz holds the tones in overlapping windows. Tones
    are multiples of the frame rate, so that neighbouring windows agree. The leaky ReLU behind them
    halves waves: every wave is there twice, once upside down, and the last layer joins the halves.
    """
    first, (loud, hand, bank), last = vocoder.conv_pre, vocoder.upsampler, vocoder.conv_post
    for layer in (first, loud, hand, bank, last, *(b.convs2[0] for b in vocoder.resblocks)):
        layer.weight.zero_()
        layer.bias.zero_()
    # Spare channels, unheard until `hand` takes them up.
    loud.weight[:, MEL_BINS:].normal_(std=0.02)
    bands, hinges = torch.arange(MEL_BINS), torch.tensor([-2.0, 0.5, 1.2, 1.8])
    slopes, offset = _exponential(hinges)
    centres, gains = band_tones()
    for k, hinge in enumerate(hinges):
        first.weight[bands * 4 + k, bands, 3] += 1.0
        first.bias[bands * 4 + k] -= hinge
        loud.weight[bands * 4 + k, bands, 1] += slopes[k] * gains
    loud.bias[bands] += offset * gains
    hand.weight[bands, bands, 1] += 1.0
    window = bank.weight.shape[2]
    tones = (centres / (RATE / HOP)).round().clamp(min=1) * (RATE / HOP)  # Hz
    turns = tones[:, None] * (torch.arange(window) - window / 2) / RATE + torch.rand(MEL_BINS, 1)
    waves = torch.hann_window(window) * (2 * torch.pi * turns).cos()  # (bands, window)
    pair = 2 * (bands % (bank.weight.shape[1] // 2))
    bank.weight[bands, pair] += waves
    bank.weight[bands, pair + 1] -= waves
    last.weight[0, 0::2, 3] += 1.0
    last.weight[0, 1::2, 3] -= 1.0


def _exponential(hinges: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of leaky hinges (and an offset) that turn a normalised log-mel into an energy, least squares."""
    levels = torch.linspace(-1.7, 2.4, 400)
    energy = (LEVELS.spread * levels + LEVELS.mean).exp()
    columns = F.leaky_relu(levels[:, None] - hinges, 0.1)
    columns = torch.cat([columns, torch.ones(len(levels), 1)], dim=1)
    weight = 1 / (energy + 0.003)[:, None]  # silence has to be silent
    found = torch.linalg.lstsq(columns * weight, energy[:, None] * weight).solution[:, 0]
    return found[:-1], found[-1]


def build_unet() -> UNet2DConditionModel:
    """Denoiser of the latents, told the caption by its class embedding; no cross-attention to words."""
    channels = (48, 96, 96)
    unet = UNet2DConditionModel(
        sample_size=FRAMES // 4,
        in_channels=LATENTS,
        out_channels=LATENTS,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        attention_head_dim=(4, 4, 4),
        cross_attention_dim=channels,
        norm_num_groups=16,
        use_linear_projection=True,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=WIDTH,
        class_embeddings_concat=True,
    )
    with torch.no_grad():  # entries of a unit vector of 128 are small; start as if they were not
        unet.class_embedding.weight.mul_(WIDTH**0.5)
    plain_attention(unet)
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer) -> ClapTextModelWithProjection:
    """CLAP's text tower, 2 layers of 128, with a projection to 128."""
    # positions are numbered from the padding token's id on, as RoBERTa does it
    positions = tokenizer.pad_token_id + _PADDED_PROMPT + 2
    config = ClapTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        max_position_embeddings=positions,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return ClapTextModelWithProjection(config)


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> dict[str, Tensor]:
    """Token ids and mask (B, 16); longer captions are cut."""
    return tokenizer(
        captions,
        padding="max_length",
        max_length=POSITIONS,
        truncation=True,
        return_tensors="pt",
    )


def embed(text_encoder: ClapTextModelWithProjection, words: dict[str, Tensor]) -> Tensor:
    """Unit caption vectors (B, 128), as AudioLDMPipeline makes them of a prompt."""
    pooled = text_encoder(words["input_ids"], attention_mask=words["attention_mask"]).text_embeds
    return F.normalize(pooled, dim=-1)


def caption_vectors(
    text_encoder: ClapTextModelWithProjection, tokenizer: CLIPTokenizer
) -> Callable[[str], Tensor]:
    """A function from a caption to its unit vector (128,), which remembers what it was asked."""

    @lru_cache(maxsize=4096)
    @torch.no_grad()
    def vector(text: str) -> Tensor:
        return embed(text_encoder, tokens(tokenizer, [text]))[0]

    return vector


def save_part(model: ModelMixin | PreTrainedModel, folder: Path) -> None:
    """One trained part in fp32 (config.json and safetensors), written beside and renamed."""
    replace_folder(folder, model.save_pretrained)


def load_pipeline(folder: Path) -> AudioLDMPipeline:
    """The pipeline in fp32, without progress bars."""
    pipe = AudioLDMPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe
