"""Distances of features: closed forms, matrix square roots, published formulas, and media that failed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from anytoany_lib.benchmarks.distances import (
    clap_score,
    clip_score,
    clipsim,
    finite,
    frechet_distance,
    inception_score,
    mean_kl,
    paired_cosines,
)

RNG = np.random.default_rng(0)


def _features(n: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated features with a mean of their own."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def _by_square_root(one: np.ndarray, other: np.ndarray) -> float:
    """Heusel's formula as it is written."""
    root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(other.T)).real
    spread = np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root)
    return float(np.square(one.mean(0) - other.mean(0)).sum() + spread)


@pytest.mark.parametrize("width", [2, 16, 64])
def test_frechet_against_the_matrix_square_root(width: int):
    one, other = _features(500, width), _features(300, width, seed=1)
    score = frechet_distance(one, other)
    assert score.value == pytest.approx(_by_square_root(one, other), rel=1e-8)
    assert (score.n, score.failures) == (300, 0)


def test_frechet_against_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    import torch

    one, other = _features(200, 8), _features(200, 8, seed=1)
    moments = [torch.from_numpy(part) for x in (one, other) for part in (x.mean(0), np.cov(x.T))]
    assert frechet_distance(one, other).value == pytest.approx(
        float(fid._compute_fid(*moments)), rel=1e-6
    )


def test_frechet_of_gaussians_in_closed_form():
    # Of samples moved and stretched along the axes: |shift|^2 + sum (s - t)^2 over standard deviations.
    rows = RNG.normal(size=(100, 4))
    rows -= rows.mean(0)
    rows = np.linalg.qr(rows)[0] * np.sqrt(99)  # covariance exactly 1
    one, other = rows * [1, 2, 3, 4], rows * [2, 2, 1, 0.5] + [1, 0, 0, -2]
    expected = 1 + 4 + np.square([1 - 2, 0, 3 - 1, 4 - 0.5]).sum()
    assert frechet_distance(one, other).value == pytest.approx(expected)
    assert frechet_distance(one, one).value == pytest.approx(0, abs=1e-9)


def test_too_few_media_are_refused_with_the_number_needed():
    one, other = _features(100, 20), _features(20, 20, seed=1)
    with pytest.raises(ValueError, match=r"20 generated media \(0 more failed\).*at least 21"):
        frechet_distance(one, other)
    with pytest.raises(ValueError, match=r"20 real media .*at least 21"):
        frechet_distance(other, one)
    few = frechet_distance(one, other, allow_few=True)
    assert few.value == pytest.approx(_by_square_root(one, other), rel=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(one, other[:1], allow_few=True)
    assert frechet_distance(one, np.vstack([other, other[:1] + 1])).n == 21


def test_failed_media_are_counted_and_do_not_disturb():
    one, other = _features(100, 4), _features(60, 4, seed=1)
    broken = np.vstack([other, np.full((2, 4), np.nan), [[np.inf, 0, 0, 0]]])
    assert frechet_distance(one, broken) == frechet_distance(one, other)._replace(failures=3)
    with pytest.raises(ValueError, match=r"4 generated media \(96 more failed\)"):
        frechet_distance(one, np.vstack([one[:4], np.full((96, 4), np.nan)]))
    rows, failures = finite(broken)
    assert len(rows) == 60 and failures == 3


def test_features_of_different_extractors_are_refused():
    with pytest.raises(ValueError, match="4 and 5 wide"):
        frechet_distance(_features(100, 4), _features(100, 5))
    with pytest.raises(ValueError, match=r"not \(100,\)"):
        frechet_distance(np.zeros(100), np.zeros(100))


def test_inception_score_in_closed_form():
    certain = np.eye(5)[np.arange(50) % 5] * 1e3  # five classes alike, each certain
    assert inception_score(certain, splits=1).value == pytest.approx(5)
    assert inception_score(np.zeros((50, 5))).value == pytest.approx(1)
    logits = RNG.normal(size=(30, 7)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropy = -(p * np.log(p)).sum(1).mean()
    of_mean = -(p.mean(0) * np.log(p.mean(0))).sum()
    assert inception_score(logits, splits=1).value == pytest.approx(np.exp(of_mean - entropy))


def test_probabilities_are_not_taken_for_logits():
    p = RNG.dirichlet(np.ones(5), size=30)
    with pytest.raises(ValueError, match="these are probabilities"):
        inception_score(p)
    entropies = scipy.stats.entropy(p, p.mean(0)[None], axis=1)
    assert inception_score(np.log(p), splits=1).value == pytest.approx(np.exp(entropies.mean()))


def test_inception_score_is_of_its_seed_and_counts_failures():
    logits = RNG.normal(size=(95, 7)) * 3
    assert inception_score(logits, seed=1) == inception_score(logits, seed=1)
    assert inception_score(logits, seed=1).value != inception_score(logits, seed=2).value
    broken = np.vstack([logits, np.full((5, 7), np.nan)])
    assert inception_score(broken, seed=1) == inception_score(logits, seed=1)._replace(failures=5)
    with pytest.raises(ValueError, match="3 media cannot be split into 10"):
        inception_score(logits[:3])


def test_kl_of_pairs_against_scipy():
    real, made = RNG.normal(size=(2, 20, 6))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (real, made))
    assert mean_kl(real, made).value == pytest.approx(scipy.stats.entropy(p, q, axis=1).mean())
    assert mean_kl(real, real).value == pytest.approx(0, abs=1e-12)
    made[3] = np.nan
    assert mean_kl(real, made)[1:] == (19, 1)
    with pytest.raises(ValueError, match="none of the 20 pairs"):
        mean_kl(real, np.full((20, 6), np.nan))


def test_cosine_scores_by_hand():
    media = np.array([[1.0, 0], [3, 4], [-1, 0], [np.nan, 0]])
    texts = np.array([[2.0, 0], [4, 3], [1, 0], [1, 0]])
    assert paired_cosines(media, texts)[:3] == pytest.approx([1, 24 / 25, -1])
    assert clip_score(media, texts) == pytest.approx((2.5 * (1 + 24 / 25) / 4, 4, 1))
    assert clap_score(media, texts) == pytest.approx((24 / 25 / 4, 4, 1))
    with pytest.raises(ValueError, match="pairs of features"):
        clip_score(media, texts[:2])


def test_clipsim_is_the_mean_over_frames():
    frames = np.array([[[1.0, 0], [0, 5]], [[1, 1], [1, 1]]])
    texts = np.array([[1.0, 0], [1, 1]])
    assert clipsim(frames, texts).value == pytest.approx((0.5 + 1) / 2)
    frames[1, 0] = np.nan
    assert clipsim(frames, texts) == pytest.approx((0.25, 2, 1))
    with pytest.raises(ValueError, match="clips, frames, width"):
        clipsim(texts, texts)
