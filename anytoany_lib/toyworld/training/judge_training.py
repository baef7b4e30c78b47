"""Trains the judges of the toy world: `python -m anytoany_lib.toyworld.training.judge_training --out DIR`.

Scenes with held-out pairs are half of the pictures' and films' share here, for a judge has to know
them; nothing a generator was trained on is used. What a decoder does to media (blur, faint noise,
smeared log-mels) is done to the training media too, so that quality is not mistaken for content.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from anytoany_lib.toyworld.judges import INPUTS, LABELS, NETWORKS, Judges, load_judges
from anytoany_lib.toyworld.normalised_mels import LEVELS
from anytoany_lib.toyworld.pictures import COLOURS, MOTIONS
from anytoany_lib.toyworld.scenes import THINGS, Scene, random_scene, render
from anytoany_lib.toyworld.training.pace import Pace, minimise, shuffled_batches

POOL = {"image": 10000, "audio": 6000, "video": 4000}
BATCH = {"image": 64, "audio": 32, "video": 16}
PEAK_RATE = 2e-3
HISS = (
    -1.8,
    0.7,
)  # normalised log-mel of the hiss put under sounds, from unheard to about -34 dBFS
UNASKED = -100  # cross entropy skips this label


def any_scene(kind: str, rng: np.random.Generator) -> Scene:
    """A scene with any combination of attributes, held out or not (size and place at times for pictures)."""
    scene = random_scene(kind, rng)
    if kind == "audio":
        return scene
    thing, colour = THINGS[rng.integers(len(THINGS))], list(COLOURS)[rng.integers(len(COLOURS))]
    scene = scene.but(thing=thing, colour=colour)
    return scene.but(motion=MOTIONS[rng.integers(len(MOTIONS))]) if kind == "video" else scene


def labels_of(kind: str, scene: Scene) -> list[int]:
    """The label index of each attribute of the kind, UNASKED where the scene leaves it open."""
    values = [(options, getattr(scene, name)) for name, options in LABELS[kind].items()]
    return [UNASKED if value is None else options.index(value) for options, value in values]


def labelled_pool(kind: str, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """`size` prepared media and their labels: inputs (size, ...) float16, labels (size, attributes)."""
    rng = np.random.default_rng(seed)
    inputs, labels = [], []
    for _ in tqdm(range(size), desc=f"{kind} renders", mininterval=5):
        scene = any_scene(kind, rng)
        inputs.append(INPUTS[kind](render(kind, scene, rng)).half())
        labels.append(labels_of(kind, scene))
    return torch.stack(inputs), torch.tensor(labels)


def _blur(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, H, W)."""
    reach = torch.arange(-3, 4).float()
    kernel = torch.softmax(-(reach**2) / (2 * sigma**2), 0)
    channels = pictures.shape[1]
    across = kernel.view(1, 1, 1, 7).expand(channels, 1, 1, 7)
    padded = F.pad(pictures, (3, 3, 3, 3), mode="replicate")
    blurred = F.conv2d(padded, across, groups=channels)
    return F.conv2d(blurred, across.transpose(2, 3), groups=channels)


def _hissing(mels: Tensor, generator: torch.Generator) -> Tensor:
    """Log-mels (B, 1, T, F) with a faint steady hiss under them, of any loudness and tilt."""
    level = torch.empty(len(mels), 1, 1, 1).uniform_(*HISS, generator=generator)
    tilt = torch.empty(len(mels), 1, 1, 1).uniform_(-0.3, 0.3, generator=generator)
    hiss = level + tilt * torch.linspace(-1, 1, mels.shape[3])
    hiss = hiss + 0.15 * torch.randn(mels.shape, generator=generator)
    # log-mels are logarithms over LEVELS.spread; energies add up
    spread = LEVELS.spread
    return torch.logaddexp(mels * spread, hiss * spread) / spread


def degraded(kind: str, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """The batch as an imperfect decoder might give it back: three in four batches are degraded a little."""
    draw = torch.rand(4, generator=generator)
    if draw[0] < 0.25:
        return inputs
    shape = inputs.shape
    if kind == "audio":
        flat = inputs[:, None]
        flat = flat + 0.12 * (2 * torch.rand(len(flat), 1, 1, 1, generator=generator) - 1)
        flat = _hissing(flat, generator)
    else:
        flat = inputs.flatten(0, -4)
        flat = flat * (1 + 0.06 * (2 * draw[3] - 1))
    if draw[1] < 0.7:
        flat = _blur(flat, 0.35 + (0.9 if kind != "audio" else 0.6) * float(draw[2]))
    noise = torch.randn(flat.shape, generator=generator)
    return (flat + 0.1 * float(draw[3]) * noise).view(shape)


def loss_of(kind: str, logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Sum of the attributes' cross entropies; labels (B, attributes)."""
    parts = [
        F.cross_entropy(logits[name], labels[:, i], ignore_index=UNASKED, label_smoothing=0.02)
        for i, name in enumerate(LABELS[kind])
    ]
    return torch.stack(parts).sum()


def train_judge(kind: str, pace: Pace, pool: tuple[Tensor, Tensor], seed: int) -> nn.Module:
    """Trains one judge on a pool of prepared media for as long as `pace` says; returns it in eval mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = NETWORKS[kind]()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    optimiser.param_groups[0]["peak"] = PEAK_RATE
    rows = shuffled_batches(len(pool[0]), BATCH[kind], generator)

    def next_loss() -> Tensor:
        """The loss of the next media, degraded as drawn ones are."""
        chosen = next(rows)
        logits = network(degraded(kind, pool[0][chosen].float(), generator))
        return loss_of(kind, logits, pool[1][chosen])

    minimise(next_loss, optimiser, pace, f"{kind} judge")
    return network.eval()


def accuracies(judges: Judges, kind: str, size: int, seed: int) -> dict[str, float]:
    """Share of fresh renders of any scenes judged right, by attribute."""
    rng = np.random.default_rng(seed)
    scenes = [any_scene(kind, rng) for _ in range(size)]
    media = [render(kind, scene, rng) for scene in scenes]
    verdicts = judges.judge(kind, media, scenes)
    return {name: float(np.nanmean(row)) for name, row in verdicts.items()}


def main() -> None:
    """Command line: trains the three judges one after the other and saves them in --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("ckpt/tiny/judges"))
    parser.add_argument("--minutes", type=float, help="training time of each judge")
    parser.add_argument(
        "--steps", type=int, help="instead of minutes: the same seed, the same judges"
    )
    parser.add_argument(
        "--pool", type=float, default=1.0, help="share of the full number of renders"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=list(LABELS), default=list(LABELS), help="others are kept"
    )
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    missing = set(LABELS) - set(options.kinds)
    networks = load_judges(options.out).networks if missing else {}
    for kind in options.kinds:
        pool = labelled_pool(kind, round(options.pool * POOL[kind]), options.seed)
        networks[kind] = train_judge(kind, Pace(options.steps, options.minutes), pool, options.seed)
    judges = Judges(networks)
    judges.save(options.out)
    for kind in LABELS:
        print(kind, accuracies(judges, kind, 1000, options.seed + 1))


if __name__ == "__main__":
    main()
