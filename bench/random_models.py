"""Frozen models with random weights in their published layouts: enough to measure speed and memory where none are at hand.

`fill(profile, folder)` writes every model that a profile names and this machine lacks below a scratch folder, and returns
the profile with those folders. Full size takes about 23 GB of disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from anytoany_lib.checkpoints import missing
from anytoany_lib.config import Profile
from anytoany_lib.imagebind import ImageBind
from anytoany_lib.llm import pick_device
from anytoany_lib.memory import llm_config

_SHARD_BYTES = 2 * 2**30
_BLOCK = 1_000_003  # a prime, so that no two rows begin alike
_TEXTS = Path(__file__).resolve().parents[1].glob("docs/*.md")


def words(size: int, positions: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of at most `size` words, learnt from the documentation."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train([str(path) for path in _TEXTS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=positions,
    )


def language_model(profile: Profile, folder: Path) -> None:
    """Writes the profile's architecture in fp16, shard by shard: memory holds one shard."""
    config = llm_config(profile)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    # One block of normal numbers, repeated: drawing billions would take longer than what is to be measured.
    block = 0.02 * torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0))
    block = block.half()
    weight_map, shard, size, number = {}, {}, 0, 0
    folder.mkdir(parents=True)
    tensors = dict(model.named_parameters())
    for name, tensor in tqdm(tensors.items(), desc="random language model"):
        if tensor.dim() == 1:
            value = torch.ones(tensor.shape) if "norm" in name else torch.zeros(tensor.shape)
        else:
            repeated = block.repeat(-(-tensor.numel() // _BLOCK))
            value = repeated[: tensor.numel()].reshape(tensor.shape)
        shard[name] = value.half().clone()
        weight_map[name] = f"model-{number:05d}.safetensors"
        size += shard[name].nbytes
        if size >= _SHARD_BYTES or name == list(tensors)[-1]:
            save_file(shard, folder / weight_map[name], {"format": "pt"})
            shard, size, number = {}, 0, number + 1
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    tokenizer = words(min(4000, config.vocab_size - 2), 2048)
    marks = ["<|im_start|>", "<|im_end|>"]  # of Qwen's templates
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.save_pretrained(folder)


def _clip(width: int, inner: int, layers: int, heads: int, tokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _vae(channels: tuple[int, ...] = (128, 256, 512, 512), **other) -> AutoencoderKL:
    depth = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=channels,
        layers_per_block=2,
        **other,
    )


def stable_diffusion(tokenizer) -> StableDiffusionPipeline:
    """The sizes of Stable Diffusion 1.5, which are the UNet class's defaults; without the safety checker."""
    return StableDiffusionPipeline(
        vae=_vae(sample_size=512),
        text_encoder=_clip(768, 3072, 12, 12, tokenizer),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def text_to_video(tokenizer) -> TextToVideoSDPipeline:
    """The sizes of ZeroScope v2 576w, which are the UNet class's defaults."""
    return TextToVideoSDPipeline(
        vae=_vae(),
        text_encoder=_clip(1024, 4096, 23, 16, tokenizer),
        tokenizer=tokenizer,
        unet=UNet3DConditionModel(sample_size=32),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        ),
    )


def audioldm(tokenizer) -> AudioLDMPipeline:
    """The sizes of AudioLDM-l-full: twice the width of AudioLDM-s."""
    widths = (256, 512, 768, 1280)
    clap = ClapTextConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    return AudioLDMPipeline(
        vae=_vae((128, 256, 512), in_channels=1, out_channels=1, latent_channels=8),
        text_encoder=ClapTextModelWithProjection(clap),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=128,
            in_channels=8,
            out_channels=8,
            block_out_channels=widths,
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
            up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
            cross_attention_dim=widths,
            attention_head_dim=8,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=512,
            class_embeddings_concat=True,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False
        ),
        vocoder=SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=64,
                sampling_rate=16000,
                upsample_initial_channel=1024,
                upsample_rates=(5, 4, 2, 2, 2),
                upsample_kernel_sizes=(16, 16, 8, 4, 4),
            )
        ),
    )


PIPELINES: dict[str, Callable] = {
    "stable-diffusion": stable_diffusion,
    "text-to-video": text_to_video,
    "audioldm": audioldm,
}


# As published: Stable Diffusion and AudioLDM in float32, ZeroScope in float16.
_PUBLISHED_IN = {"text-to-video": torch.float16}


def pipeline(kind: str, folder: Path) -> None:
    """Writes a pipeline in the type it is published in."""
    torch.manual_seed(0)
    with pick_device():
        made = PIPELINES[kind](words(4000, 77))
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(_PUBLISHED_IN.get(kind, torch.float32))
    made.save_pretrained(folder)


def encoder(file: Path) -> None:
    """Writes ImageBind-huge in the layout of the published file, in float32."""
    torch.manual_seed(0)
    with pick_device():
        model = ImageBind.huge()
    file.parent.mkdir(parents=True)
    torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)


def write(profile: Profile, what: str, scratch: Path) -> None:
    """Writes one of the models that a profile names ("llm", "encoder" or a kind of medium), unless it is there."""
    scratch.mkdir(parents=True, exist_ok=True)
    if what not in missing(profile) or (scratch / what).is_dir():
        return
    begun = scratch / f".{what}.part"
    shutil.rmtree(begun, ignore_errors=True)
    if what == "llm":
        language_model(profile, begun)
    elif what == "encoder":
        encoder(begun / "imagebind_huge.pth")
    else:
        pipeline(profile.decoders[what].pipeline, begun)
    begun.replace(scratch / what)


def located(profile: Profile, scratch: Path) -> tuple[Profile, list[str]]:
    """The profile with the random models below a folder in the place of absent ones, and the names of those."""
    changes: dict[str, Any] = {"decoders": dict(profile.decoders)}
    random = [what for what in missing(profile) if (scratch / what).is_dir()]
    for what in random:
        folder = scratch / what
        if what == "llm":
            learnt = {"folder": str(folder), "tokenizer": "auto"}
            changes["llm"] = profile.llm.model_copy(update=learnt)
        elif what == "encoder":
            file = folder / "imagebind_huge.pth"
            changes["encoder"] = profile.encoder.model_copy(update={"folder": str(file)})
        else:
            moved = profile.decoders[what].model_copy(update={"folder": str(folder)})
            changes["decoders"][what] = moved
    return profile.model_copy(update=changes), random


def fill(profile: Profile, scratch: Path) -> tuple[Profile, list[str]]:
    """The profile with random models in the place of absent ones, and the names of those."""
    for what in missing(profile):
        write(profile, what, scratch)
    return located(profile, scratch)
