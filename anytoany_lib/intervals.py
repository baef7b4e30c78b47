"""Confidence intervals of rates, by the percentile bootstrap over rows (Efron 1979)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

RESAMPLES, LEVEL = 1000, 0.95


def interval(
    values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, float]:
    """(low, high): where the mean of values (N,) lies in the middle `level` of resamples of N rows each.

    The same seed gives the same interval. Values that are all alike give an interval without width: a resample cannot show
    what no row did, so read it beside N. ValueError without values.
    """
    if not len(values):
        raise ValueError("an interval needs values")
    picks = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[picks].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return round(float(low), 4), round(float(high), 4)


def intervals(found: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, dict[str, float | int]]:
    """{rate: {"n" rows it was asked of, "low", "high"}} of what the rows add to each rate."""
    table = {}
    for name, values in found.items():
        low, high = interval(values, seed)
        table[name] = {"n": len(values), "low": low, "high": high}
    return table
