"""Trains the tiny ImageBind on the toy world: `python -m anytoany_lib.toyworld.training.encoder_training`.

Pictures, sounds and films are drawn towards their captions and away from those of other scenes
(multi-positive InfoNCE), and pictures and films towards sounds of the same thing. The LLM sees only
the pooled embedding, so all that a caption may say has to be readable there: linear classifiers on
the embedding (thing, colour, size, place, motion, count, pitch) are trained along and thrown away.
Legend: N media, D embedding.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import ImageBindConfig
from anytoany_lib.toyworld import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, caption
from anytoany_lib.toyworld.measuring.encoder_probes import probe_rates
from anytoany_lib.toyworld.training.diffusion import half_where_faster, note_training
from anytoany_lib.toyworld.training.encoder_data import (
    CLASSES,
    IGNORED,
    Pool,
    batch,
    encoder_tokenizer,
    labels,
    render_pool,
    tiny_config,
)

POOL = {"image": 14_000, "audio": 3_000, "video": 4_000}
BATCH = {"image": 96, "audio": 16, "video": 24}  # pictures say most and are the slowest to learn
GREY = 0.2  # share of sights shown without colour, so that shapes are learnt for themselves
PEAK_LR, WARM_UP, WEIGHT_DECAY, CLIP = 1.5e-3, 0.04, 0.05, 1.0
SAME_THING_SCALE, SAME_THING_WEIGHT, CLASSIFIER_WEIGHT = 10.0, 0.3, 1.0
SHARPNESS = 16.0  # unit embeddings are read by the classifiers at this length


class Classifiers(nn.Module):
    """One linear layer an attribute, shared by the kinds that have it; only for training."""

    def __init__(self, embed_dim: int):
        super().__init__()
        self.layers = nn.ModuleDict(
            {name: nn.Linear(embed_dim, len(classes)) for name, classes in CLASSES.items()}
        )

    def forward(self, embedding: Tensor, wanted: dict[str, Tensor]) -> Tensor:
        """Sum of the cross entropies of (N, D) embeddings against the labels given."""
        losses = []
        for name, target in wanted.items():
            logits = self.layers[name](SHARPNESS * embedding)
            logits = logits.masked_fill(ruled_out(name, wanted), -math.inf)
            losses.append(F.cross_entropy(logits, target, ignore_index=IGNORED))
        return torch.stack(losses).sum()


def _held_out(pairs: frozenset, name: str) -> Tensor:
    """Pairs as a bool table (things, classes of the attribute)."""
    return torch.tensor([[(a, b) in pairs for b in CLASSES[name]] for a in CLASSES["thing"]])


HELD_OUT = {
    "colour": _held_out(HELD_OUT_PAIRS, "colour"),
    "motion": _held_out(HELD_OUT_MOTIONS, "motion"),
}


def ruled_out(name: str, wanted: dict[str, Tensor]) -> Tensor:
    """Classes of `name` that make a held-out pair with a medium's other labels: bool (N, classes).

    No training example has them, so without this a model learns "blue, therefore no cat", and the
    held-out blue cat goes wrong for a reason that has nothing to do with seeing.
    """
    out = torch.zeros(len(wanted["thing"]), len(CLASSES[name]), dtype=torch.bool)
    for other, table in HELD_OUT.items():
        if other in wanted and name == "thing":
            known = (wanted[other] != IGNORED)[:, None]
            out |= table[:, wanted[other].clamp(min=0)].T & known
        elif other == name:
            out |= table[wanted["thing"]]
    return out


def matches(wanted: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which captions fit which media, from the labels of a batch: two bool (N, N).

    The first: the same scene. The second: pairs neither drawn nor pushed, because the caption
    (column) leaves open what the medium (row) shows, so it is true of it but not its own, or
    because the two together would make a held-out pair (see `ruled_out`).
    """
    codes = torch.stack(list(wanted.values()), dim=1)  # (N, A)
    same = codes[:, None] == codes[None]
    openings = [CLASSES[name][0] is None for name in wanted]
    left_open = (codes == 0) & torch.tensor(openings) | (codes == IGNORED)
    positive = same.all(-1)
    neutral = (same | left_open[None]).all(-1)
    for name in HELD_OUT.keys() & wanted.keys():
        known = wanted[name] != IGNORED
        # The row's thing with the column's attribute.
        crossed = ruled_out(name, wanted)[:, wanted[name].clamp(min=0)] & known
        neutral |= crossed | crossed.T
    return positive, neutral & ~positive


def contrast(logits: Tensor, positive: Tensor, neutral: Tensor) -> Tensor:
    """Multi-positive InfoNCE over rows: -log of the probability mass on the positives."""
    logits = logits.float().masked_fill(neutral, -math.inf)
    kept = positive.any(dim=1)
    mass = logits.masked_fill(~positive, -math.inf)[kept].logsumexp(1)
    return (logits[kept].logsumexp(1) - mass).mean()


def both_ways(logits: Tensor, positive: Tensor, neutral: Tensor) -> Tensor:
    """`contrast` of rows against columns and of columns against rows, averaged."""
    back = contrast(logits.T, positive.T, neutral.T)
    return (contrast(logits, positive, neutral) + back) / 2


def losses(
    model: ImageBind,
    classifiers: Classifiers,
    pools: dict[str, Pool],
    rng: np.random.Generator,
    noise: torch.Generator,
) -> dict[str, Tensor]:
    """The terms of one step's loss on a fresh batch of every kind."""
    embeddings, things = {}, {}
    terms = {"captions": torch.zeros(()), "classifiers": torch.zeros(())}
    for kind, pool in pools.items():
        picked = rng.integers(len(pool), size=BATCH[kind])
        scenes, grey = [pool.scenes[i] for i in picked], None
        if kind != "audio":
            grey = rng.random(len(picked)) < GREY
            scenes = [s.but(colour=None) if g else s for s, g in zip(scenes, grey, strict=True)]
        ids = model.tokenize([caption(kind, scene, rng) for scene in scenes])
        ids = ids[:, : int(ids.argmax(1).max()) + 1]
        sense = "audio" if kind == "audio" else "vision"
        found = model({sense: batch(pool, picked, model.config, noise, grey), "text": ids})
        embedding, wanted = found[sense].float(), labels(kind, scenes)
        logits = F.normalize(embedding, dim=-1) @ found["text"].float().T
        terms["captions"] = terms["captions"] + both_ways(logits, *matches(wanted))
        terms["classifiers"] = terms["classifiers"] + classifiers(embedding, wanted)
        embeddings[kind], things[kind] = embedding, wanted["thing"]
    seen = torch.cat([embeddings["image"], embeddings["video"]])
    same = torch.cat([things["image"], things["video"]])[:, None] == things["audio"][None]
    logits = SAME_THING_SCALE * seen @ embeddings["audio"].T
    terms["same thing"] = both_ways(logits, same, torch.zeros_like(same))
    return terms


def rate_at(progress: float) -> float:
    """Learning rate at a fraction of the training: linear warm-up, then a cosine to zero."""
    if progress < WARM_UP:
        return PEAK_LR * (progress + 1e-3) / WARM_UP
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def optimiser(model: nn.Module, classifiers: nn.Module) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    parameters = [*model.parameters(), *classifiers.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98))


@torch.no_grad()
def start_positions(model: ImageBind) -> None:
    """Give patch positions sines of their row and column to start from.

    The published start, small noise, is drowned by the patches: for hundreds of steps nothing that
    depends on where a thing is gets learnt.
    """
    config = model.config
    grids = {
        "vision": (config.image_size, config.image_size, config.vision_patch, config.vision_patch),
        "audio": (config.mel_bins, config.mel_frames, config.audio_patch, config.audio_stride),
    }
    for sense, (height, width, patch, stride) in grids.items():
        helper = f"modality_preprocessors.{sense}.pos_embedding_helper"
        positions = model.get_parameter(f"{helper}.pos_embed")
        octaves = 2.0 ** torch.linspace(0, 4, positions.shape[-1] // 4)
        waves = []
        for side in (height, width):
            count = (side - patch) // stride + 1
            angle = math.pi * torch.arange(count)[:, None] / count * octaves
            waves.append(torch.cat([angle.sin(), angle.cos()], dim=1))
        rows, columns = waves
        shape = (len(rows), len(columns), -1)
        both = [rows[:, None].expand(shape), columns[None].expand(shape)]
        positions[0, 1:] = torch.cat(both, dim=-1).flatten(0, 1)


def render_pools(config: ImageBindConfig, seed: int, scale: float) -> dict[str, Pool]:
    """What is trained on, a pool a kind; `scale` 1.0 renders all of `POOL`."""
    return {
        kind: render_pool(kind, int(count * scale), seed * 1000 + i, config, even=True)
        for i, (kind, count) in enumerate(POOL.items(), start=1)
    }


def train_encoder(
    out: Path,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    pool_scale: float = 1.0,
    save_every: float = 5.0,
) -> tuple[ImageBind, list[dict[str, float]]]:
    """Train for `steps` (the same seed gives the same weights) or for `minutes` of wall clock.

    Writes the model to `out` every `save_every` minutes and at the end. Returns it with the log:
    one row every 25 steps of step, seconds, lr and loss terms.
    """
    if (steps is None) == (minutes is None):
        raise ValueError("give either steps or minutes")
    torch.manual_seed(seed)
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    tokenizer = encoder_tokenizer(seed)
    model = ImageBind(tiny_config(len(tokenizer)))
    model.tokenizer = tokenizer
    start_positions(model)
    classifiers = Classifiers(model.config.embed_dim)
    pools = render_pools(model.config, seed, pool_scale)
    optim = optimiser(model, classifiers)
    log: list[dict[str, float]] = []
    start = saved = time.monotonic()
    bar = tqdm(total=steps, desc="encoder", mininterval=5)
    step = 0
    while True:
        seconds = time.monotonic() - start
        progress = step / steps if steps else seconds / (60 * (minutes or 0.0))
        if progress >= 1:
            break
        for group in optim.param_groups:
            group["lr"] = rate_at(progress)
        terms = _step(model, classifiers, pools, optim, rng, noise)
        step += 1
        bar.update()
        if step % 25 == 0 or step == steps:
            log.append(
                {"step": step, "seconds": round(seconds, 1), "lr": rate_at(progress), **terms}
            )
            bar.set_postfix(terms)
        if time.monotonic() - saved > 60 * save_every:
            model.save(out)
            saved = time.monotonic()
    bar.close()
    model.save(out)
    return model.eval(), log


def _step(model, classifiers, pools, optim, rng, noise) -> dict[str, float]:
    """One update; returns the loss terms as numbers."""
    with half_where_faster():
        terms = losses(model, classifiers, pools, rng, noise)
    loss = (
        terms["captions"]
        + CLASSIFIER_WEIGHT * terms["classifiers"]
        + SAME_THING_WEIGHT * terms["same thing"]
    )
    optim.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optim.step()
    return {name: round(term.item(), 4) for name, term in terms.items()}


def main() -> None:
    """Command line: train, save, note the training, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="same seed, same weights")
    length.add_argument("--minutes", type=float, help="wall clock; depends on the machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool-scale", type=float, default=1.0, help="fewer renders, for trials")
    parser.add_argument("--out", type=Path, default=Path("ckpt/tiny/encoder"))
    args = parser.parse_args()
    model, log = train_encoder(args.out, args.steps, args.minutes, args.seed, args.pool_scale)
    for row in log[:: max(1, len(log) // 40)]:
        print(json.dumps(row))
    model = ImageBind.from_checkpoint(args.out)
    print(json.dumps(note_and_measure(model, log, args.seed, args.out), indent=2))


def note_and_measure(
    model: ImageBind, log: list[dict], seed: int, out: Path, fitted: int = 3000
) -> dict:
    """Notes the training in OUT/training.json and returns what the saved model was measured at.

    `fitted` renders of each kind fit the probes, a third as many score them.
    """
    last = log[-1] if log else {}
    minutes = round(last.get("seconds", 0.0) / 60, 1)
    parameters = sum(p.numel() for p in model.parameters())
    steps = last.get("step", 0)
    note_training(out, seed=seed, steps=steps, minutes=minutes, parameters=parameters)
    return probe_rates(model, fitted=fitted, scored=fitted // 3)


if __name__ == "__main__":
    main()
