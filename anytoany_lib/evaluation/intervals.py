"""Confidence intervals of rates, by the percentile bootstrap over rows (Efron 1979), and whether two runs differ by chance.

The interval of a difference between runs that replied to the same rows is that of the rows' own differences.
"""

from collections.abc import Mapping
from math import comb

import numpy as np

RESAMPLES, LEVEL = 1000, 0.95


def interval(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """(low, high): where the mean of values (N,) lies in the middle LEVEL of resamples of N rows each.

    The same seed gives the same interval. Values that are all alike give an interval without width: a resample cannot show
    what no row did, so read it beside N. ValueError without values.
    """
    if not len(values):
        raise ValueError("an interval needs values")
    picks = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[picks].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return round(float(low), 4), round(float(high), 4)


def intervals(found: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, dict[str, float | int]]:
    """{rate: {"n" rows it was asked of, "low", "high"}} of what the rows add to each rate, nan where it was not asked."""
    table = {}
    for name, of_rows in found.items():
        values = of_rows[~np.isnan(of_rows)]
        low, high = interval(values, seed)
        table[name] = {"n": len(values), "low": low, "high": high}
    return table


def by_chance(differences: np.ndarray) -> float:
    """How likely ups and downs of rows (N,) as uneven as these are if both were as likely: the exact sign test, two-sided.

    Rows that did not change say nothing. Of outcomes that are right or wrong it is McNemar's test (1947). Unlike an interval
    it holds for few rows: five that all went up are no proof (0.06).
    """
    ups, downs = int((differences > 0).sum()), int((differences < 0).sum())
    fewer = sum(comb(ups + downs, count) for count in range(min(ups, downs) + 1))
    return min(1.0, 2 * fewer / 2 ** (ups + downs))
