"""Bootstrap intervals: against the binomial distribution, and what has to hold of any."""

from __future__ import annotations

import numpy as np
import pytest

from anytoany_lib.evaluation.intervals import by_chance, interval, intervals


def test_an_interval_of_a_rate_is_where_the_binomial_has_it():
    values = np.repeat([1.0, 0.0], [70, 30])
    low, high = interval(values, seed=3)
    spread = 1.96 * np.sqrt(0.7 * 0.3 / 100)
    assert abs(low - (0.7 - spread)) < 0.02 and abs(high - (0.7 + spread)) < 0.02


def test_it_covers_the_true_rate_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval((rng.random(200) < 0.8).astype(float), n, 300) for n in range(300)]
    assert 0.9 < np.mean([low <= 0.8 <= high for low, high in found]) < 0.99


def test_the_same_seed_gives_the_same_and_more_rows_a_narrower_one():
    few, many = np.tile([1.0, 0.0], 10), np.tile([1.0, 0.0], 1000)
    assert interval(few, 1) == interval(few, 1)
    assert np.diff(interval(many)) < np.diff(interval(few)) / 5
    assert interval(np.ones(5)) == (1.0, 1.0)
    with pytest.raises(ValueError, match="needs values"):
        interval(np.ones(0))


def test_every_rate_has_the_number_of_rows_that_it_was_asked_of():
    found = intervals({"thing": np.ones(8), "unseen_pairs": np.array([1.0, np.nan, 0.0])})
    assert found["thing"] == {"n": 8, "low": 1.0, "high": 1.0}
    assert found["unseen_pairs"] == {"n": 2, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("ups", "downs", "expected"),
    [(0, 0, 1.0), (5, 0, 2 / 32), (6, 0, 2 / 64), (3, 1, 2 * (1 + 4) / 16), (4, 4, 1.0)],
)
def test_the_sign_test_is_that_of_a_coin(ups: int, downs: int, expected: float):
    differences = np.array([1.0] * ups + [-1.0] * downs + [0.0] * 50)
    assert by_chance(differences) == by_chance(-differences) == expected
