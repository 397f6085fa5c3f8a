"""What tables say of several seeds, against numpy, scipy and numbers by hand."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from rnet.report.statistics import Summary, away, flops_at_accuracy, min_max, ratio, summary

NUMBERS = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@settings(deadline=None, max_examples=60)
@given(st.lists(NUMBERS, min_size=2, max_size=8))
def test_mean_spread_and_interval_are_numpys_and_scipys(values: list[float]) -> None:
    found = summary(values)
    assert found is not None
    assert (found.mean, found.spread) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=1e-9)
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), max(stats.sem(values), 1e-300))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.seeds == len(values)


def test_three_seeds_by_hand() -> None:
    found = summary([1.0, 2.0, 3.0])
    assert found == Summary(mean=2.0, spread=1.0, low=pytest.approx(-0.484138), high=pytest.approx(4.484138), seeds=3)


def test_one_seed_has_no_spread_and_no_interval() -> None:
    assert summary([0.5]) == Summary(mean=0.5, spread=None, low=None, high=None, seeds=1)


def test_what_is_missing_or_not_finite_does_not_count() -> None:
    assert summary([None, float("nan"), float("inf"), 2.0]) == summary([2.0])
    assert summary([]) is None
    assert summary([None]) is None


def test_an_interval_ends_where_the_range_does() -> None:
    found = summary([0.9, 1.0], 0.0, 1.0)
    assert found is not None
    assert found.high == 1.0
    assert found.low == pytest.approx(0.95 - 12.7062 * 0.05, abs=1e-4)


def test_distances_are_normalised_over_all_and_similarities_reversed() -> None:
    assert min_max([1.0, 3.0, 5.0], "distance") == pytest.approx([0.0, 0.5, 1.0])
    assert min_max([1.0, 3.0, 5.0], "similarity") == pytest.approx([1.0, 0.5, 0.0], abs=1e-8)
    assert min_max([2.0, 2.0], "distance") == [0.0, 0.0]
    assert min_max([2.0, 2.0], "similarity") == [1.0, 1.0]


def test_a_score_is_as_far_away_as_it_is_from_the_derived_end_of_its_range() -> None:
    assert away(0.25, "similarity", 0.0, 1.0) == 0.75
    assert away(3.0, "distance", 0.0, float("inf")) == 3.0
    assert away(-2.0, "distance", float("-inf"), 0.0) is None


def test_a_ratio_needs_a_median_that_is_not_zero() -> None:
    assert ratio(6.0, 2.0) == 3.0
    assert ratio(6.0, 0.0) is None
    assert ratio(6.0, None) is None
    assert ratio(None, 2.0) is None


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        (0.5, (10.0, "at most")),
        (0.6, (10.0, "at most")),
        (0.7, (20.0, "interpolated")),  # half way from (10, 0.6) to (30, 0.8), past the worse run at 20
        (0.8, (30.0, "interpolated")),
        (0.85, (35.0, "interpolated")),
        (0.91, (None, "not reached")),
    ],
)
def test_the_cost_of_an_accuracy_is_interpolated_between_budgets(
    accuracy: float, expected: tuple[float | None, str]
) -> None:
    runs = [(30.0, 0.8), (10.0, 0.6), (20.0, 0.5), (40.0, 0.9)]
    flops, how = flops_at_accuracy(runs, accuracy)
    assert (flops, how) == (pytest.approx(expected[0]) if expected[0] else None, expected[1])


def test_without_runs_no_accuracy_is_reached() -> None:
    assert flops_at_accuracy([], 0.1) == (None, "not reached")
