"""Judges of the toy world: small classifiers that say what a picture, sound or film shows.

They are trained apart from every generator (`judge_training`), on all pairs including the held-out
ones, and are only ever used to measure. `load_judges(folder)` gives a `Judges`; media or texts and
the scenes they were meant to show go in, one array per attribute comes out (1.0 right, 0.0 wrong,
nan not asked). Legend: B batch, N samples, T frames, F mel bins, C channels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anytoany_lib.system.files import appearing_file, write_json
from anytoany_lib.toyworld.normalised_mels import SAMPLES, normalised_mel
from anytoany_lib.toyworld.pictures import COLOURS, FRAMES, MOTIONS, PIXELS
from anytoany_lib.toyworld.scenes import ATTRIBUTES, THINGS, Scene
from anytoany_lib.toyworld.sounds import PITCHES
from anytoany_lib.toyworld.text_judge import judge_words

LABELS: dict[str, dict[str, tuple]] = {
    "image": {"thing": THINGS, "colour": tuple(COLOURS)},
    "audio": {"thing": THINGS, "count": (1, 2, 3), "pitch": tuple(PITCHES)},
    "video": {"thing": THINGS, "colour": tuple(COLOURS), "motion": MOTIONS},
}


def _block(inside: int, outside: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


def _heads(width: int, kind: str) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, len(v)) for name, v in LABELS[kind].items()})


def _pooled(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 2 C): mean and maximum over the picture."""
    return torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)


class Eye(nn.Module):
    """Pictures (B, 3, 64, 64) in [-1, 1] -> logits of thing and colour."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            _block(3, 24, 2),
            _block(24, 48, 2),
            _block(48, 64, 1),
            _block(64, 96, 2),
            _block(96, 96, 1),
        )
        self.heads = _heads(192, "image")

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        pooled = _pooled(self.trunk(pictures))
        return {name: head(pooled) for name, head in self.heads.items()}


class Ear(nn.Module):
    """Log-mels (B, 200, 64) -> logits of thing, count and pitch."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            _block(1, 16, 2),
            _block(16, 32, 2),
            _block(32, 64, 1),
            _block(64, 96, 2),
            _block(96, 64, 1),
        )
        self.over_time = nn.Sequential(
            nn.Conv1d(64 * 8, 96, 1), nn.ReLU(), nn.Conv1d(96, 96, 7, padding=3), nn.ReLU()
        )
        self.heads = _heads(192, "audio")

    def forward(self, mels: Tensor) -> dict[str, Tensor]:
        features = self.trunk(mels[:, None])  # (B, 64, 25, 8)
        # pitch is a place on the frequency axis, so that axis is kept apart until here
        features = self.over_time(features.permute(0, 1, 3, 2).flatten(1, 2))
        pooled = torch.cat([features.mean(2), features.amax(2)], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}


class Watcher(nn.Module):
    """Films (B, 8, 3, 64, 64) in [-1, 1] -> logits of thing, colour and motion."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            _block(3, 24, 2), _block(24, 48, 2), _block(48, 64, 2), _block(64, 96, 1)
        )
        self.where = nn.Sequential(
            nn.Conv2d(96, 12, 1), nn.ReLU(), nn.Flatten(), nn.Linear(768, 48)
        )
        self.moves = nn.Sequential(nn.ReLU(), nn.Linear(48 * FRAMES, 128), nn.ReLU())
        self.heads = _heads(192, "video")
        self.heads["motion"] = nn.Linear(128, len(MOTIONS))

    def forward(self, films: Tensor) -> dict[str, Tensor]:
        """Films (B, T, 3, H, W) -> logits (B, classes) of each attribute."""
        batch = films.shape[0]
        features = self.trunk(films.flatten(0, 1))  # (B T, 96, 8, 8)
        moves = self.moves(self.where(features).view(batch, -1))
        # the best frame decides: a blinking thing is away in every second one
        pooled = _pooled(features).view(batch, FRAMES, -1).amax(1)
        inputs = {"thing": pooled, "colour": pooled, "motion": moves}
        return {name: head(inputs[name]) for name, head in self.heads.items()}


NETWORKS: dict[str, type[nn.Module]] = {"image": Eye, "audio": Ear, "video": Watcher}


def picture_input(image: Image.Image) -> Tensor | None:
    """(3, 64, 64) float32 in [-1, 1], or None where it is no picture."""
    if not isinstance(image, Image.Image) or min(image.size) < 1:
        return None
    return _pixels(image)


def _pixels(image: Image.Image) -> Tensor:
    image = image.convert("RGB")
    if image.size != (PIXELS, PIXELS):
        image = image.resize((PIXELS, PIXELS), Image.Resampling.BOX)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def sound_input(samples: np.ndarray) -> Tensor | None:
    """(200, 64) log-mel of float samples at 16 kHz (cut or filled up to 2 s), or None for a bad one."""
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype.kind != "f":
        return None
    if samples.size < SAMPLES // 4 or not np.isfinite(samples).all():
        return None
    samples = np.pad(samples[:SAMPLES], (0, max(0, SAMPLES - samples.size)))
    return normalised_mel(torch.from_numpy(samples.astype(np.float32))[None])[0]


def film_input(frames: np.ndarray) -> Tensor | None:
    """(8, 3, 64, 64) float32 in [-1, 1] of a uint8 film (T, H, W, 3), or None for a bad one."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        return None
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        return None
    chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    return torch.stack([_pixels(Image.fromarray(frames[i])) for i in chosen])


INPUTS: dict[str, Callable[[Any], Any]] = {
    "image": picture_input,
    "audio": sound_input,
    "video": film_input,
}


def _expected(scene: Scene | Mapping, attribute: str):
    return getattr(scene, attribute, None) if isinstance(scene, Scene) else scene.get(attribute)


class Judges:
    """The three trained judges. `guess` says what they see or hear, `judge` whether it is as asked."""

    def __init__(self, networks: Mapping[str, nn.Module]):
        self.networks = {kind: network.eval() for kind, network in networks.items()}

    @torch.no_grad()
    def guess(self, kind: str, media: Sequence, batch: int = 64) -> list[dict | None]:
        """One {attribute: label} for each medium, None for one that is no valid medium of its kind."""
        inputs = [INPUTS[kind](medium) for medium in media]
        valid = [i for i, prepared in enumerate(inputs) if prepared is not None]
        found: list[dict | None] = [None] * len(inputs)
        for start in range(0, len(valid), batch):
            rows = valid[start : start + batch]
            logits = self.networks[kind](torch.stack([inputs[i] for i in rows]))
            chosen = {name: values.argmax(1).tolist() for name, values in logits.items()}
            for place, row in enumerate(rows):
                found[row] = {n: LABELS[kind][n][chosen[n][place]] for n in chosen}
        return found

    def judge(
        self, kind: str, media: Sequence, scenes: Sequence[Scene | Mapping]
    ) -> dict[str, np.ndarray]:
        """Right (1.0), wrong (0.0) or not asked (nan) for each attribute of the kind and each row.

        Media are PIL images, float samples (N,) at 16 kHz or uint8 films (T, H, W, 3); anything else,
        None and sounds with nan or infinite samples included, is wrong in all that was asked. Scenes
        are `Scene`s or mappings; an attribute that is missing or None is not asked.
        Raises ValueError where the lengths differ or the kind is unknown.
        """
        if kind not in LABELS:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(LABELS)}")
        if len(media) != len(scenes):
            raise ValueError(f"{len(media)} media but {len(scenes)} scenes")
        guesses = self.guess(kind, media)
        verdicts = {name: np.full(len(media), np.nan) for name in LABELS[kind]}
        for name, row in verdicts.items():
            for i, (scene, guess) in enumerate(zip(scenes, guesses, strict=True)):
                expected = _expected(scene, name)
                if expected is not None:
                    row[i] = float(guess is not None and guess[name] == expected)
        return verdicts

    def judge_text(
        self, kind: str, texts: Sequence[str], scenes: Sequence[Scene | Mapping]
    ) -> dict[str, np.ndarray]:
        """As `judge`, for texts that describe a medium of that kind, by the words in them.

        Texts about pictures are judged by size and place too. What is not a string is wrong.
        """
        if kind not in ATTRIBUTES:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(ATTRIBUTES)}")
        if len(texts) != len(scenes):
            raise ValueError(f"{len(texts)} texts but {len(scenes)} scenes")
        verdicts = {name: np.full(len(texts), np.nan) for name in ATTRIBUTES[kind]}
        for name, row in verdicts.items():
            for i, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
                expected = _expected(scene, name)
                if expected is not None:
                    row[i] = float(isinstance(text, str) and judge_words(name, text, expected))
        return verdicts

    def save(self, folder: str | Path) -> None:
        """Writes model.safetensors (fp16) and config.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{kind}.{name}": value.half() if value.is_floating_point() else value
            for kind, network in self.networks.items()
            for name, value in network.state_dict().items()
        }
        with appearing_file(folder / "model.safetensors") as beside:
            save_file({k: v.contiguous() for k, v in tensors.items()}, beside)
        write_json(folder / "config.json", {"labels": LABELS})


def load_judges(folder: str | Path) -> Judges:
    """The judges saved in `folder` (ckpt/tiny/judges).

    Raises FileNotFoundError where they are missing, ValueError where they were trained on other
    labels than today's toy world, RuntimeError for missing or surplus keys.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing; notebook tiny_5_judges makes it")
    labels = json.loads((folder / "config.json").read_text())["labels"]
    if labels != json.loads(json.dumps(LABELS)):
        raise ValueError(
            f"the judges in {folder} know other labels; run notebook tiny_5_judges again"
        )
    tensors = load_file(folder / "model.safetensors")
    networks = {}
    for kind, network in NETWORKS.items():
        prefix = f"{kind}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        networks[kind] = network()
        networks[kind].load_state_dict(state, strict=True)
    return Judges(networks)
