"""How good generated media are, from features alone: the Fréchet distance, Inception score, KL and cosine scores.

What extracts the features names the metric: the Fréchet distance is FID on Inception's pooled features, FAD on VGGish, FD on
PANNs and FVD on I3D; the cosine is CLIPScore and CLIPSIM in CLIP's space, the CLAP score in CLAP's (see `extractors`).
Rows that are not finite are media that failed. They are counted in every result: a distribution is taken of the others, in a
mean over media they have the worst score.
Legend: N, M media, D width, C classes.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax

CLIP_SCORE_WEIGHT = 2.5  # Hessel et al. 2021


class Score(NamedTuple):
    """A metric's value, how many media it was taken of, and how many more or among them failed."""

    value: float
    n: int
    failures: int


def finite(features: np.ndarray) -> tuple[np.ndarray, int]:
    """(the rows that are finite as float64, how many are not). ValueError unless features are (N, D)."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2:
        raise ValueError(f"features are (media, width), not {features.shape}")
    good = np.isfinite(features).all(1)
    return features[good], int((~good).sum())


def frechet_distance(real: np.ndarray, made: np.ndarray, allow_few: bool = False) -> Score:
    """Between the Gaussians of two sets of features (N, D) and (M, D), squared as in all papers (Heusel et al. 2017).

    |m_r - m_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^1/2), covariances over N - 1. ValueError for fewer than D + 1 media of either,
    whose covariance is singular and whose distance is too large by an amount that grows as they get fewer; `allow_few` takes
    them all the same, for numbers that are compared at equal N only.
    """
    (real, real_failed), (made, made_failed) = finite(real), finite(made)
    if real.shape[1] != made.shape[1]:
        widths = f"{real.shape[1]} and {made.shape[1]} wide"
        raise ValueError(f"features of different extractors: {widths}")
    least = 2 if allow_few else real.shape[1] + 1
    for name, rows, failed in (("real", real, real_failed), ("generated", made, made_failed)):
        if len(rows) < least:
            advice = "" if allow_few else " (allow_few overrides this)"
            raise ValueError(
                f"{len(rows)} {name} media ({failed} more failed) are too few: a Fréchet distance of features {rows.shape[1]} "
                f"wide needs at least {least}{advice}"
            )
    (mean, factor), (other_mean, other_factor) = _gaussian(real), _gaussian(made)
    # tr (S_r S_g)^1/2 is the sum of the singular values of R_r R_g^T, where S = R^T R: no root of a matrix is taken.
    shared = np.linalg.svd(factor @ other_factor.T, compute_uv=False).sum()
    spread = np.square(factor).sum() + np.square(other_factor).sum()
    value = np.square(mean - other_mean).sum() + spread - 2 * shared
    return Score(float(max(value, 0.0)), len(made), real_failed + made_failed)


def _gaussian(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and a factor R (min(N, D), D) of the covariance R^T R."""
    mean = rows.mean(0)
    return mean, np.linalg.qr(rows - mean, mode="r") / np.sqrt(len(rows) - 1)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over classes, (N, C). ValueError for what is one already: its softmax would be nearly uniform."""
    if (logits >= 0).all() and np.allclose(logits.sum(1), 1, atol=1e-3):
        raise ValueError(
            "these are probabilities: give logits, or their logarithms, which are logits too"
        )
    return softmax(logits, axis=1)


def _divergence(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(one || other) of each row, in nats; a class of probability 0 in `one` adds nothing."""
    tiny = np.finfo(np.float64).tiny
    return (one * (np.log(np.maximum(one, tiny)) - np.log(np.maximum(other, tiny)))).sum(1)


def inception_score(logits: np.ndarray, splits: int = 10, seed: int = 0) -> Score:
    """exp of the mean KL(p(y|x) || p(y)) of a classifier's logits (N, C), averaged over splits (Salimans et al. 2016).

    1 to C; the order is drawn from the seed before splitting. ValueError for fewer finite rows than splits.
    """
    rows, failures = finite(logits)
    if len(rows) < splits:
        counts = f"{len(rows)} media cannot be split into {splits}"
        raise ValueError(f"{counts} ({failures} more failed)")
    rows = _probabilities(rows)[np.random.default_rng(seed).permutation(len(rows))]
    parts = [
        np.exp(_divergence(part, part.mean(0, keepdims=True)).mean())
        for part in np.array_split(rows, splits)
    ]
    return Score(float(np.mean(parts)), len(rows), failures)


def mean_kl(real_logits: np.ndarray, made_logits: np.ndarray) -> Score:
    """The mean KL(p(y|real) || p(y|made)) over pairs of media, by a classifier's logits (N, C), in nats.

    Pairs of which one failed are left out and counted. ValueError if the shapes differ or no pair is finite.
    """
    real, made = _paired(real_logits, made_logits)
    good = np.isfinite(real).all(1) & np.isfinite(made).all(1)
    if not good.any():
        raise ValueError(f"none of the {len(good)} pairs of media is usable")
    values = _divergence(_probabilities(real[good]), _probabilities(made[good]))
    return Score(float(values.mean()), int(good.sum()), int((~good).sum()))


def paired_cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The cosine of each pair of rows, (N,); NaN where a row is not finite or has no direction."""
    one, other = _paired(one, other)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (one * other).sum(1) / lengths


def clip_score(media: np.ndarray, texts: np.ndarray) -> Score:
    """The mean of 2.5 max(cosine, 0) over pictures and their captions, features (N, D) (Hessel et al. 2021)."""
    return _mean_over_media(CLIP_SCORE_WEIGHT * np.maximum(paired_cosines(media, texts), 0))


def clap_score(media: np.ndarray, texts: np.ndarray) -> Score:
    """The mean cosine of sounds and their captions in CLAP's space, -1 to 1; failed sounds count 0."""
    return _mean_over_media(paired_cosines(media, texts))


def clipsim(frames: np.ndarray, texts: np.ndarray) -> Score:
    """The mean over clips of the mean cosine of frames (N, T, D) with captions (N, D) (Wu et al. 2021, GODIVA)."""
    frames = np.asarray(frames, dtype=np.float64)
    if frames.ndim != 3:
        raise ValueError(f"features of frames are (clips, frames, width), not {frames.shape}")
    each = np.stack([paired_cosines(frames[:, t], texts) for t in range(frames.shape[1])], axis=1)
    return _mean_over_media(each.mean(1))


def _mean_over_media(values: np.ndarray) -> Score:
    """The mean where failures, NaN here, count 0."""
    failed = ~np.isfinite(values)
    if not len(values):
        raise ValueError("no media to score")
    return Score(float(np.where(failed, 0.0, values).mean()), len(values), int(failed.sum()))


def _paired(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; ValueError unless they are (N, D) alike."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(
            f"pairs of features are (media, width) alike, not {one.shape} and {other.shape}"
        )
    return one, other
