"""Confidence intervals of differences, and ranks, for cases with known answers."""

import itertools
import math

import numpy as np
import pytest

from dapt.training.statistics import (
    bootstrap_means,
    differences,
    holm,
    ranks,
    studentized_range,
)


def test_bootstrap_draws_what_enumeration_finds():
    table = np.array([[0.0, 1.0, 0.5], [1.0, -1.0, 0.25]])
    every = [
        table[np.ix_(rows, columns)].mean()
        for rows in itertools.product(range(2), repeat=2)
        for columns in itertools.product(range(3), repeat=3)
    ]
    means = bootstrap_means(table, draws=40_000, seed=3)
    assert means.mean() == pytest.approx(np.mean(every), abs=0.01)
    assert means.std() == pytest.approx(np.std(every), rel=0.02)
    for value in np.unique(np.round(every, 9)):  # the distribution function, step by step
        expected = np.mean(np.round(every, 9) <= value)
        assert np.mean(np.round(means, 9) <= value) == pytest.approx(expected, abs=0.012)


def test_interval_of_alike_seeds_is_that_of_the_normal_theory():
    rng = np.random.default_rng(0)
    right = rng.random((2, 1500)) < [[0.74], [0.64]]
    scores = {name: np.repeat(row[None], 3, 0) for name, row in zip("ab", right, strict=True)}
    found = differences(scores, "b")["a"]
    pairs = right[0].astype(float) - right[1]
    error = 1.96 * pairs.std() / math.sqrt(1500)
    assert found.mean == pytest.approx(pairs.mean())
    assert found.high - found.low == pytest.approx(2 * error, rel=0.05)
    assert found.is_significant == (found.low > 0) and found.in_words.endswith("*")


def test_seeds_that_disagree_widen_the_interval_and_nothing_is_found_in_noise():
    rng = np.random.default_rng(1)
    alike = rng.random((3, 400)) < 0.6
    shifted = rng.random((3, 400)) < np.array([[0.3], [0.6], [0.9]])
    same = differences({"a": alike, "b": rng.random((3, 400)) < 0.6}, "b")["a"]
    wide = differences({"a": shifted, "b": alike}, "b")["a"]
    assert wide.high - wide.low > 3 * (same.high - same.low)
    assert not wide.is_significant
    nothing = differences({"a": alike, "b": alike}, "b")["a"]
    assert (nothing.mean, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)
    again = differences({"a": shifted, "b": alike}, "b")["a"]
    assert again == wide  # reproducible by seed


def test_holm_against_a_worked_case():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_ranks_by_hand_and_the_critical_difference_of_the_literature():
    found = ranks({"a": [0.9, 0.8, 0.7], "b": [0.5, 0.8, 0.6], "c": [0.1, 0.2, 0.9]})
    assert found.mean == pytest.approx({"a": (1 + 1.5 + 2) / 3, "b": 6.5 / 3, "c": 7 / 3})
    assert list(found.mean) == ["a", "b", "c"] and found.datasets == 3
    # q of Nemenyi's test at 5 %, from tables
    for methods, q in {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 10: 3.164}.items():
        assert studentized_range(methods) / math.sqrt(2) == pytest.approx(q, abs=1e-3)
    values = np.random.default_rng(0).random((4, 14))
    found = ranks({str(i): row for i, row in enumerate(values)})
    assert found.critical == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)


def test_friedman_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    for methods, sets in ((3, 4), (6, 9), (17, 4)):
        values = rng.integers(0, 12, (methods, sets)) / 12  # with ties
        found = ranks({str(i): row for i, row in enumerate(values)})
        statistic, p = stats.friedmanchisquare(*values)
        assert found.statistic == pytest.approx(statistic) and found.p == pytest.approx(p)
        expected = stats.studentized_range.ppf(0.95, methods, np.inf)
        assert studentized_range(methods) == pytest.approx(expected, abs=1e-4)
