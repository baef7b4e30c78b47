"""What the tiny ImageBind is trained and measured on: tokenizer, pools of renders, labels.

A `Pool` holds many prepared media of one kind with their scenes; `batch` gives some of them as the
model reads them, slightly spoilt when training, because the encoder will also meet what the tiny
decoders make: a little blurred, a little noisy.
Legend: N media, S clips, A attributes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import CLIPTokenizer

from anytoany_lib.encoders.imagebind_inputs import (
    FRAMES_PER_CLIP,
    MEL_MEAN,
    MEL_STD,
    ImageBindConfig,
    SenseConfig,
    log_mels,
    normalise_pixels,
)
from anytoany_lib.toyworld import COLOURS, MOTIONS, THINGS, Scene, caption, random_scene
from anytoany_lib.toyworld.scenes import ATTRIBUTES, PLACES, SIZES, render

# What can be said of a scene; an attribute left open has a class of its own where it shows
# (neither small nor big, in the middle).
CLASSES: dict[str, tuple] = {
    "thing": THINGS,
    "colour": tuple(COLOURS),
    "size": (None, *SIZES),
    "place": (None, *PLACES),
    "motion": tuple(MOTIONS),
    "count": (1, 2, 3),
    "pitch": ("low", "high"),
}
IGNORED = -100  # cross entropy skips it


def tiny_config(vocab_size: int) -> ImageBindConfig:
    """The tiny ImageBind: vision, audio and text; 64 x 64 pixels; embeddings of length 1."""
    return ImageBindConfig(
        embed_dim=256,
        vision=SenseConfig(width=128, blocks=4, heads=4),
        audio=SenseConfig(width=128, blocks=3, heads=2, scale=1.0),
        text=SenseConfig(width=96, blocks=2, heads=4),
        image_size=64,
        vision_patch=8,
        vocab_size=vocab_size,
        context_length=32,
        audio_clips=1,
        video_clips=4,
        video_clip_seconds=None,
        video_crops=1,
    )


def encoder_tokenizer(seed: int, captions: int = 20_000, merges: int = 250) -> CLIPTokenizer:
    """A CLIP tokenizer (byte pairs, lower case) learnt on toy captions of all kinds.

    Every byte has its token, so any text can be written; the end token has the highest id, which
    is how ImageBind finds it.
    """
    rng = np.random.default_rng(seed)
    kinds = [list(ATTRIBUTES)[i] for i in rng.integers(len(ATTRIBUTES), size=captions)]
    texts = [caption(kind, random_scene(kind, rng), rng) for kind in kinds]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    symbols = 2 * len(alphabet)
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=symbols + merges,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    pairs = [tuple(pair) for pair in _merges(learner)][:merges]
    words = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=pairs)


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    return json.loads(tokenizer.to_str())["model"]["merges"]


@dataclass(frozen=True)
class Pool:
    """Media of one kind and their scenes.

    `media` is uint8 (N, 3, 64, 64), half log-mels (N, mel, F) or uint8 (N, 8, 3, 64, 64).
    """

    kind: str
    scenes: list[Scene]
    media: Tensor

    def __len__(self) -> int:
        return len(self.scenes)


def render_pool(
    kind: str,
    count: int,
    seed: int,
    config: ImageBindConfig,
    held_out: bool = False,
    even: bool = False,
) -> Pool:
    """`count` random scenes of one kind, rendered; the same seed gives the same pool.

    With `even` every size and place of a picture is as frequent as having none is.
    """
    rng = np.random.default_rng(seed)
    scenes, media = [], []
    for _ in tqdm(range(count), desc=f"render {kind}", mininterval=2):
        scene = random_scene(kind, rng, held_out)
        if even and kind == "image":
            size, place = (CLASSES[a][rng.integers(len(CLASSES[a]))] for a in ("size", "place"))
            scene = scene.but(size=size, place=place)
        thing = torch.from_numpy(np.array(render(kind, scene, rng)))
        scenes.append(scene)
        media.append(log_mels(config, thing[None])[0].half() if kind == "audio" else thing)
    stacked = torch.stack(media)
    return Pool(kind, scenes, stacked if kind == "audio" else stacked.movedim(-1, -3).contiguous())


def batch(
    pool: Pool,
    picked: np.ndarray,
    config: ImageBindConfig,
    noise: torch.Generator | None = None,
    grey: np.ndarray | None = None,
) -> Tensor:
    """Some of a pool as the model's input; with `noise` spoilt, and only half of a film's clips.

    Pictures and films where `grey` (N,) is true lose their colour.
    image (N, 3, H, W), audio (N, 1, 1, mel, F), video (N, S, 3, 2, H, W), float32.
    """
    media = pool.media[torch.from_numpy(picked)]
    if pool.kind == "audio":
        mels = media.float()
        return (mels if noise is None else _spoil_mels(mels, noise))[:, None, None]
    if pool.kind == "image":
        pixels = media[:, None].float()
    else:
        pixels = media.float().unflatten(1, (config.video_clips, FRAMES_PER_CLIP))
        if noise is not None:
            clips = torch.randperm(config.video_clips, generator=noise)[: config.video_clips // 2]
            pixels = pixels[:, clips]
        pixels = pixels.flatten(1, 2)
    if grey is not None:
        pixels[torch.from_numpy(grey)] = pixels[torch.from_numpy(grey)].mean(2, keepdim=True)
    if noise is not None:
        pixels = _spoil_pixels(pixels, noise)
    pixels = normalise_pixels(pixels)
    if pool.kind == "image":
        return pixels[:, 0]
    return pixels.unflatten(1, (-1, FRAMES_PER_CLIP)).transpose(2, 3)


def _spoil_pixels(pixels: Tensor, noise: torch.Generator) -> Tensor:
    """(N, T, 3, H, W) 0..255: shifted a little, blurred, tinted, noisy; one way a medium."""
    n, t = pixels.shape[:2]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=noise)

    dy, dx = (int(v) for v in torch.randint(0, 5, (2,), generator=noise))
    padded = F.pad(pixels.flatten(0, 1), (2, 2, 2, 2), mode="replicate")
    pixels = padded[..., dy : dy + pixels.shape[-2], dx : dx + pixels.shape[-1]]
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = (uniform(n, 1, 1, 1, 1) * 1.4 - 0.5).clamp(0, 0.85)  # a third stay sharp
    pixels = pixels.unflatten(0, (n, t)).lerp(soft.unflatten(0, (n, t)), blur)
    gain = 1 + 0.06 * (uniform(n, 1, 3, 1, 1) - 0.5)
    grain = torch.randn(pixels.shape, generator=noise) * uniform(n, 1, 1, 1, 1) * 8
    return (pixels * gain + grain).clamp(0, 255)


def _spoil_mels(mels: Tensor, noise: torch.Generator) -> Tensor:
    """(N, mel, F): louder or softer, over a floor of hiss."""
    n = len(mels)
    log = mels * MEL_STD + MEL_MEAN
    gain = torch.rand(n, 1, 1, generator=noise) * 3 - 2
    floor = torch.rand(n, 1, 1, generator=noise) * 10 - 17
    hiss = floor + torch.randn(mels.shape, generator=noise)
    return (torch.logaddexp(log + gain, hiss) - MEL_MEAN) / MEL_STD


def labels(kind: str, scenes: list[Scene]) -> dict[str, Tensor]:
    """The class of each scene for each attribute of a kind, (N,); IGNORED where it has none."""
    return {
        name: torch.tensor([_class_of(getattr(scene, name), CLASSES[name]) for scene in scenes])
        for name in ATTRIBUTES[kind]
    }


def _class_of(value: str | int | None, classes: tuple) -> int:
    return classes.index(value) if value in classes else IGNORED
