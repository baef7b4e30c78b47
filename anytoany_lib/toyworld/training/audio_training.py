"""Trains the tiny AudioLDM from nothing: `python -m anytoany_lib.toyworld.training.audio_training --out DIR`.

Four stages, each of which keeps its part in the work folder so that it can be run again alone:
`vae` codes log-mel pictures, `vocoder` turns them (as they are and as the autoencoder gives them
back) into samples, `text` turns captions into vectors, `unet` makes latents of those. The last one
writes the pipeline now and then, so that a killed run leaves a usable one behind.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AudioLDMPipeline, AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import ClapTextModelWithProjection, CLIPTokenizer, SpeechT5HifiGan

from anytoany_lib.decoders.mels import HOP, mel_energies
from anytoany_lib.toyworld.judges import Judges
from anytoany_lib.toyworld.language import caption
from anytoany_lib.toyworld.normalised_mels import LEVELS, SAMPLES, normalised_mel
from anytoany_lib.toyworld.scenes import Scene, random_scene, render
from anytoany_lib.toyworld.training.audio_models import (
    GUIDANCE,
    STEPS,
    build_text_encoder,
    build_unet,
    build_vae,
    build_vocoder,
    caption_vectors,
    embed,
    save_part,
    tokens,
)
from anytoany_lib.toyworld.training.diffusion import (
    fast_scheduler,
    half_where_faster,
    noise_scheduler,
    note_training,
    plain_attention,
    save_pipeline,
)
from anytoany_lib.toyworld.training.pace import Pace, minimise, shuffled_batches
from anytoany_lib.toyworld.training.text_encoder import SAYINGS, WIDTH, stated_attributes

SHARES = {"vae": 0.17, "vocoder": 0.2, "text": 0.03, "unet": 0.6}
POOL = {"vae": 3000, "vocoder": 1500, "unet": 5000}
CAPTION_DROP = 0.1
HEAD_SCALE = 8.0  # entries of a unit vector are small for a linear head
KL_WEIGHT = 3e-3  # of the mean over a latent's numbers
SEGMENT = 64  # mel frames in one vocoder example, 0.64 s
FIRST_RATE = 1.2e-3  # peak learning rate of the U-Net
FURTHER_RATE = 7e-4  # peak learning rate of a training that goes on with trained weights
# Low, for it starts as a working vocoder (`build_vocoder`) and is easily led astray.
VOCODER_RATE = 1e-4
LOSS_FLOOR = 5e-5  # of a window's length, in the logarithm of mel energies
SAVE_EVERY = 300  # steps


def sound_pool(size: int, seed: int) -> tuple[list[Scene], Tensor, Tensor]:
    """Scenes, their samples (size, 32000) int16 and log-mels (size, 200, 64) float16."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene("audio", rng) for _ in range(size)]
    samples = torch.empty(size, SAMPLES, dtype=torch.int16)
    mels = torch.empty(size, SAMPLES // HOP, 64, dtype=torch.float16)
    for i, scene in enumerate(tqdm(scenes, desc="sounds", mininterval=5)):
        rendered = torch.from_numpy(render("audio", scene, rng))
        samples[i] = (rendered * 32767).round().short()
        mels[i] = normalised_mel(rendered[None])[0]
    return scenes, samples, mels


def clipped_adamw(models: Sequence[nn.Module], peak: float) -> torch.optim.AdamW:
    """AdamW that clips the gradients of all its models together to norm 1 before each step."""
    parameters = [p for model in models for p in model.parameters()]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-4)
    optimiser.param_groups[0]["peak"] = peak

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(parameters, 1.0)

    optimiser.register_step_pre_hook(clip)
    return optimiser


def _batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    return shuffled_batches(count, size, torch.Generator().manual_seed(seed), drop_last=True)


def train_vae(pace: Pace, mels: Tensor, seed: int, batch: int = 4) -> AutoencoderKL:
    """Trains the autoencoder on log-mels (N, 200, 64) and sets its scaling factor from the latents."""
    torch.manual_seed(seed)
    vae = build_vae()
    rows = _batches(len(mels), batch, seed)

    def next_loss() -> Tensor:
        """How far the next mels are off once encoded and decoded, in value and in slope, and a little of the KL divergence."""
        truth = mels[next(rows)].float()[:, None]  # (B, 1, 200, 64)
        with half_where_faster():
            posterior = vae.encode(truth).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        gap = decoded.float() - truth
        slopes = gap.diff(dim=2).abs().mean() + gap.diff(dim=3).abs().mean()
        loss = gap.abs().mean() + gap.square().mean() + 0.5 * slopes
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return loss + KL_WEIGHT * kl

    minimise(next_loss, clipped_adamw([vae], 2e-3), pace, "mel autoencoder")
    latents = encode_mels(vae, mels[:512])
    vae.register_to_config(scaling_factor=vae.config.scaling_factor / float(latents.float().std()))
    return vae.eval()


@torch.no_grad()
def encode_mels(vae: AutoencoderKL, mels: Tensor, batch: int = 32) -> Tensor:
    """Latent means of log-mels (N, 200, 64), times the scaling factor: (N, 4, 50, 16) float16."""
    parts = []
    for chunk in tqdm(mels.split(batch), desc="latents", mininterval=5):
        with half_where_faster():
            latents = vae.encode(chunk.float()[:, None]).latent_dist.mean.float()
        parts.append((latents * vae.config.scaling_factor).half())
    return torch.cat(parts)


@torch.no_grad()
def decode_mels(vae: AutoencoderKL, latents: Tensor, batch: int = 32) -> Tensor:
    """Log-mels (N, 200, 64) float16 of scaled latents."""
    scale = vae.config.scaling_factor
    with half_where_faster():
        parts = [vae.decode(z.float() / scale).sample[:, 0].half() for z in latents.split(batch)]
    return torch.cat(parts)


def spectral_loss(guess: Tensor, truth: Tensor) -> Tensor:
    """How far samples (B, N) are apart in mel energies, at a long and a short window.

    Single frequencies are not compared: the vocoder's frames repeat 100 times a second, so a steady
    tone can be off by up to 50 Hz, and a loss that minds that is least for silence.
    """
    total = 5 * F.avg_pool1d(guess, 1600).abs().mean()  # a constant offset, which bands do not show
    for window, hop, bands in ((1024, 160, 64), (256, 64, 24)):
        ours, theirs = (
            mel_energies(guess, window, hop, bands),
            mel_energies(truth, window, hop, bands),
        )
        total = total + (ours - theirs).abs().mean() / (theirs.mean() + 0.01)
        floor = LOSS_FLOOR * window
        total = total + 0.3 * ((ours + floor).log() - (theirs + floor).log()).abs().mean()
    return total


def train_vocoder(
    pace: Pace,
    samples: Tensor,
    mels: Tensor,
    blurred: Tensor,
    seed: int,
    start: SpeechT5HifiGan | None = None,
    batch: int = 8,
) -> SpeechT5HifiGan:
    """Trains a new vocoder, or `start` further, on true log-mels and, half of the time, the autoencoder's."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vocoder = build_vocoder() if start is None else start.train()
    rows = _batches(len(mels), batch, seed)

    def next_loss() -> Tensor:
        """How far the next stretches of sound are off once made from their mels."""
        chosen = next(rows)
        first = int(rng.integers(0, mels.shape[1] - SEGMENT + 1))
        source = torch.where(torch.rand(batch, 1, 1) < 0.5, mels[chosen], blurred[chosen])
        truth = samples[chosen, first * HOP : (first + SEGMENT) * HOP].float() / 32767
        with half_where_faster():
            guess = vocoder(source[:, first : first + SEGMENT].float())
        return spectral_loss(guess.float(), truth)

    minimise(next_loss, clipped_adamw([vocoder], VOCODER_RATE), pace, "vocoder")
    return vocoder.eval()


def train_clap_text_encoder(
    pace: Pace, tokenizer: CLIPTokenizer, seed: int, batch: int = 64
) -> ClapTextModelWithProjection:
    """Teaches the text encoder what a caption says, by naming it with linear heads that are thrown away.

    It stays as it is from then on, so a caption means the same vector all through the U-Net's
    training and after it.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    text_encoder = build_text_encoder(tokenizer)
    sizes = [len(words) + 1 for words in SAYINGS.values()]
    heads = nn.Linear(WIDTH, sum(sizes))

    def next_loss() -> Tensor:
        """How far the attributes named by the next captions' vectors are off."""
        texts = [caption("audio", random_scene("audio", rng), rng) for _ in range(batch)]
        vectors = embed(text_encoder, tokens(tokenizer, texts))
        named = heads(HEAD_SCALE * vectors).split(sizes, dim=1)
        labels = torch.tensor([stated_attributes(text) for text in texts])
        losses = (F.cross_entropy(logits, labels[:, i]) for i, logits in enumerate(named))
        return sum(losses, torch.zeros(()))

    minimise(next_loss, clipped_adamw([text_encoder, heads], 1e-3), pace, "text encoder")
    return text_encoder.eval().requires_grad_(False)


def turned(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Unit vectors (B, 128), turned a little: a language model's projection will not hit them exactly."""
    amount = 0.4 * torch.rand(len(vectors), 1, generator=generator)
    noise = torch.randn(vectors.shape, generator=generator) / vectors.shape[1] ** 0.5
    return F.normalize(vectors + amount * noise, dim=1)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves an exponential moving average of weights along."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def train_audio_unet(
    pace: Pace,
    latents: Tensor,
    scenes: list[Scene],
    caption_vector: Callable[[str], Tensor],
    seed: int,
    keep: Callable[[UNet2DConditionModel], None],
    start: UNet2DConditionModel | None = None,
    batch: int = 12,
) -> UNet2DConditionModel:
    """Trains a new denoiser, or `start` further; returns the moving average of its weights.

    `caption_vector` gives the unit vector (128,) of a caption; captions are worded anew at each step,
    and one in ten is empty, for guidance. `keep` is called with the average every SAVE_EVERY steps.
    """
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    unet, noise = build_unet() if start is None else start.train(), noise_scheduler()
    average = copy.deepcopy(unet)
    rows = _batches(len(latents), batch, seed)

    def next_loss() -> Tensor:
        """The denoising loss of the next latents, told their captions."""
        chosen = next(rows)
        texts = [caption("audio", scenes[i], rng) for i in chosen]
        vectors = torch.stack([caption_vector(text) for text in texts])
        dropped = torch.rand(batch, 1, generator=generator) < CAPTION_DROP
        vectors = torch.where(dropped, caption_vector(""), turned(vectors, generator))
        clean = latents[chosen].float()
        added = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, noise.config.num_train_timesteps, (batch,), generator=generator)
        with half_where_faster():
            guess = unet(
                noise.add_noise(clean, added, times), times, None, class_labels=vectors
            ).sample
        return F.mse_loss(guess.float(), noise.get_velocity(clean, added, times))

    def after_step() -> None:
        update_average(average, unet, min(0.998, (1 + pace.taken) / (10 + pace.taken)))
        if pace.taken % SAVE_EVERY == 0:
            keep(average)

    optimiser = clipped_adamw([unet], FIRST_RATE if start is None else FURTHER_RATE)
    minimise(next_loss, optimiser, pace, "audio UNet", after_step)
    return average.eval()


@torch.no_grad()
def generate_sounds(
    pipe: AudioLDMPipeline,
    captions: list[str],
    seed: int,
    inference_steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 16,
) -> np.ndarray:
    """Samples (N, 32000) float32 for captions, through the pipeline's own call with embeddings."""
    generator = torch.Generator().manual_seed(seed)
    nothing = embed(pipe.text_encoder, tokens(pipe.tokenizer, [""]))
    made = []
    for start in tqdm(range(0, len(captions), batch), desc="sounds", mininterval=5):
        prompts = embed(pipe.text_encoder, tokens(pipe.tokenizer, captions[start : start + batch]))
        result = pipe(
            prompt_embeds=prompts,
            negative_prompt_embeds=nothing.expand_as(prompts),
            num_inference_steps=inference_steps,
            guidance_scale=guidance,
            audio_length_in_s=2.0,
            generator=generator,
        )
        made.append(result.audios)
    return np.concatenate(made)


def sound_rates(judges: Judges, sounds: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Share of sounds judged right, by attribute."""
    verdicts = judges.judge("audio", list(sounds), scenes)
    return {name: float(np.nanmean(row)) for name, row in verdicts.items()}


def run_stage(stage: str, pace: Pace, options: argparse.Namespace) -> None:
    """One stage, with what the stages before it left in the work folder."""
    work, seed = options.work, options.seed
    if stage == "text":
        tokenizer = CLIPTokenizer.from_pretrained(options.tokenizer)
        save_part(train_clap_text_encoder(pace, tokenizer, seed), work / "text")
        tokenizer.save_pretrained(work / "text")
        return
    scenes, samples, mels = sound_pool(round(options.pool * POOL[stage]), seed + len(stage))
    if stage == "vae":
        save_part(train_vae(pace, mels, seed), work / "vae")
        return
    vae = AutoencoderKL.from_pretrained(work / "vae")
    latents = encode_mels(vae, mels)
    if stage == "vocoder":
        blurred = decode_mels(vae, latents)
        start = SpeechT5HifiGan.from_pretrained(work / "vocoder") if options.further else None
        vocoder = train_vocoder(pace, samples, mels, blurred, seed, start)
        save_part(vocoder, work / "vocoder")
        return
    parts = {
        "vae": vae,
        "vocoder": SpeechT5HifiGan.from_pretrained(work / "vocoder"),
        "text_encoder": ClapTextModelWithProjection.from_pretrained(work / "text"),
        "tokenizer": CLIPTokenizer.from_pretrained(work / "text"),
    }

    def keep(unet: UNet2DConditionModel) -> None:
        save_pipeline(AudioLDMPipeline(unet=unet, scheduler=fast_scheduler(), **parts), options.out)
        LEVELS.save(options.out)

    vector = caption_vectors(parts["text_encoder"], parts["tokenizer"])
    start = None
    if options.further:
        start = UNet2DConditionModel.from_pretrained(
            options.out / "unet", torch_dtype=torch.float32
        )
        plain_attention(start)
    keep(train_audio_unet(pace, latents, scenes, vector, seed, keep, start))
    note_training(options.out, part="U-Net", sounds=len(scenes), seed=seed, **pace.facts())


def main() -> None:
    """Command line: all stages, or one of them with what the others left in --work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("ckpt/tiny/audio"))
    parser.add_argument("--work", type=Path, default=Path("ckpt/runs/tiny_audio"))
    parser.add_argument("--tokenizer", type=Path, default=Path("ckpt/tiny/image/tokenizer"))
    parser.add_argument("--stage", choices=["all", *SHARES], default="all")
    parser.add_argument(
        "--minutes", type=float, help="training time; of all stages together for 'all'"
    )
    parser.add_argument("--steps", type=int, help="instead of minutes: steps of each stage")
    parser.add_argument(
        "--pool", type=float, default=1.0, help="share of the full number of sounds"
    )
    parser.add_argument(
        "--further", action="store_true", help="go on with the vocoder or U-Net that is there"
    )
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for stage in SHARES if options.stage == "all" else [options.stage]:
        share = SHARES[stage] if options.stage == "all" else 1.0
        minutes = None if options.minutes is None else options.minutes * share
        run_stage(stage, Pace(options.steps, minutes), options)


if __name__ == "__main__":
    main()
