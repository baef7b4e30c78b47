"""What can be read from the tiny ImageBind's embeddings: linear probes and zero-shot naming.

The probes are fitted anew on frozen embeddings of fresh renders and scored on others, so they say
what a linear layer (such as the LLM's input projection) can get out of the pooled embedding.
Legend: N media, D embedding.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.toyworld import COLOURS, MOTIONS, THINGS, caption
from anytoany_lib.toyworld.scenes import ATTRIBUTES, Scene
from anytoany_lib.toyworld.training.encoder_data import (
    CLASSES,
    IGNORED,
    Pool,
    batch,
    labels,
    render_pool,
)


@torch.inference_mode()
def embed_pool(model: ImageBind, pool: Pool, size: int = 64) -> Tensor:
    """(N, D) float32 embeddings of a pool, unspoilt, in order."""
    sense = "audio" if pool.kind == "audio" else "vision"
    spans = np.array_split(np.arange(len(pool)), max(1, len(pool) // size))
    return torch.cat([model({sense: batch(pool, span, model.config)})[sense] for span in spans])


def fit_probe(x: Tensor, y: Tensor, classes: int, decay: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression by L-BFGS: weight (classes, D) and bias (classes,)."""
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + decay * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach(), bias.detach()


def probe(model: ImageBind, kind: str, seed: int, fitted: int, scored: int) -> dict[str, float]:
    """Accuracy of a fresh linear probe for each attribute of a kind; of sights also on held-out
    pairs, which sounds have not got."""
    endings = ("",) if kind == "audio" else ("", " (unseen pairs)")
    pools = [
        render_pool(kind, count, seed + i, model.config, held_out=i == 2)
        for i, count in enumerate((fitted, *[scored] * len(endings)))
    ]
    embeddings = [embed_pool(model, pool) for pool in pools]
    centre, spread = embeddings[0].mean(0), embeddings[0].std(0)
    (x, *tests) = [(e - centre) / spread for e in embeddings]
    wanted = [labels(kind, pool.scenes) for pool in pools]
    result = {}
    for name in ATTRIBUTES[kind]:
        keep = wanted[0][name] != IGNORED
        weight, bias = fit_probe(x[keep], wanted[0][name][keep], len(CLASSES[name]))
        for test, truth, ending in zip(tests, wanted[1:], endings, strict=True):
            keep = truth[name] != IGNORED
            right = (test[keep] @ weight.T + bias).argmax(1) == truth[name][keep]
            result[f"{name}{ending}"] = round(right.float().mean().item(), 4)
    return result


def zero_shot(model: ImageBind, kind: str, seed: int, scored: int) -> dict[str, float]:
    """How often the caption nearest to a medium names its thing, a sight's colour and a film's motion."""
    pool = render_pool(kind, scored, seed, model.config)
    colours = [None] if kind == "audio" else list(COLOURS)
    motions = MOTIONS if kind == "video" else [None]
    options = [
        Scene(thing, colour, motion=motion)
        for thing, colour, motion in product(THINGS, colours, motions)
    ]
    texts = [caption(kind, option) for option in options]
    nearest = (embed_pool(model, pool) @ model.embed("text", texts).T).argmax(1).tolist()
    found = [(options[i], scene) for i, scene in zip(nearest, pool.scenes, strict=True)]
    named = [
        "thing",
        *(["colour"] if kind != "audio" else []),
        *(["motion"] if kind == "video" else []),
    ]
    return {
        name: round(float(np.mean([getattr(a, name) == getattr(b, name) for a, b in found])), 4)
        for name in named
    }


def probe_rates(
    model: ImageBind, seed: int = 77_000, fitted: int = 3_000, scored: int = 1_000
) -> dict[str, dict[str, dict[str, float]]]:
    """All probes and zero-shot rates on media the training never rendered."""
    model = model.eval()
    kinds = list(ATTRIBUTES)
    return {
        "probe": {k: probe(model, k, seed + 10 * i, fitted, scored) for i, k in enumerate(kinds)},
        "zero_shot": {k: zero_shot(model, k, seed + 900 + i, scored) for i, k in enumerate(kinds)},
    }
