"""ROC statistics against scikit-learn and against counting."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score, roc_curve

from rnet.defenses.metric import Metric
from rnet.errors import UserError
from rnet.verdicts.roc import (
    Scores,
    aruc,
    bootstrap_intervals,
    oriented,
    roc_auc,
    separation,
    tpr_at_fpr,
)  # fmt: skip

RATE = Metric(name="rate", direction="similarity", low=0.0, high=1.0, perfect=1.0)
GAP = Metric(name="gap", direction="distance", low=0.0, high=1.0)
SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=12).map(lambda v: np.array(v, dtype=np.float64))


def labelled(positives: Scores, negatives: Scores) -> tuple[Scores, Scores]:
    return np.r_[np.ones(len(positives)), np.zeros(len(negatives))], np.r_[positives, negatives]


@settings(deadline=None, max_examples=80)
@given(SCORES, SCORES)
def test_the_area_equals_scikit_learns(positives: Scores, negatives: Scores) -> None:
    assert roc_auc(positives, negatives) == pytest.approx(roc_auc_score(*labelled(positives, negatives)), abs=1e-12)


@settings(deadline=None, max_examples=80)
@given(SCORES, SCORES, st.sampled_from([0.0, 0.05, 0.1, 0.25, 1 / 3, 0.5, 1.0]))
def test_the_true_positive_rate_is_the_best_point_of_the_curve(
    positives: Scores, negatives: Scores, fpr: float
) -> None:
    false_rates, true_rates, _ = roc_curve(*labelled(positives, negatives), drop_intermediate=False)
    expected = max(t for f, t in zip(false_rates, true_rates, strict=True) if f <= fpr + 1e-9)
    assert tpr_at_fpr(positives, negatives, fpr) == pytest.approx(expected, abs=1e-12)


def test_29_percent_of_100_negatives_are_29() -> None:
    negatives = np.arange(100.0)  # 0.29 * 100 is 28.999... in floating point
    assert tpr_at_fpr(np.array([70.5]), negatives, 0.29) == 1.0  # 29 negatives score higher
    assert tpr_at_fpr(np.array([69.5]), negatives, 0.29) == 0.0  # 30 do


def test_a_distance_is_negated() -> None:
    assert oriented([0.1, 0.2], "distance").tolist() == [-0.1, -0.2]
    assert separation([0.1, 0.2], [0.8, 0.9], GAP, draws=10).auc == 1.0
    assert separation([0.1, 0.2], [0.8, 0.9], RATE, draws=10).auc == 0.0


def test_the_interval_covers_the_true_area_about_as_often_as_it_says() -> None:
    truth, covered = 0.7602, 0  # P(x > y) for x ~ N(1, 1), y ~ N(0, 1): Phi(1 / sqrt 2)
    for trial in range(40):
        generator = np.random.default_rng(trial)
        low, high = bootstrap_intervals(generator.normal(1, 1, 25), generator.normal(0, 1, 25), draws=100).auc
        covered += low <= truth <= high
    assert 33 <= covered <= 40


def test_the_intervals_are_functions_of_the_seed() -> None:
    positives, negatives = np.arange(5.0), np.arange(5.0) - 1
    found = [bootstrap_intervals(positives, negatives, (0.0,), draws=50, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@settings(deadline=None, max_examples=40)
@given(SCORES, SCORES, st.sampled_from([0.0, 0.05, 0.25, 1.0]))
def test_the_intervals_are_percentiles_of_the_statistics_of_resamples(
    positives: Scores, negatives: Scores, rate: float
) -> None:
    found = bootstrap_intervals(positives, negatives, (rate,), draws=60, seed=3)
    generator = np.random.default_rng(3)
    indices = [generator.integers(len(kind), size=(60, len(kind))) for kind in (positives, negatives)]
    resamples = [(positives[p], np.sort(negatives)[n]) for p, n in zip(*indices, strict=True)]
    areas = [roc_auc(p, n) for p, n in resamples]
    rates = [tpr_at_fpr(p, n, rate) for p, n in resamples]
    assert found.auc == pytest.approx(np.percentile(areas, [2.5, 97.5]), abs=1e-9)
    assert found.tpr[0] == pytest.approx(np.percentile(rates, [2.5, 97.5]), abs=1e-9)


def test_the_intervals_agree_with_scipys() -> None:
    generator = np.random.default_rng(0)
    positives, negatives = generator.normal(1, 1, 30), generator.normal(0, 1, 40)
    area = lambda p, n, axis: (np.sign(p[..., :, None] - n[..., None, :]).mean(axis=(-2, -1)) + 1) / 2  # noqa: E731
    expected = bootstrap((positives, negatives), area, n_resamples=1000, method="percentile", rng=1).confidence_interval
    found = bootstrap_intervals(positives, negatives, draws=1000)
    assert found.auc == pytest.approx(tuple(expected), abs=0.02)


@pytest.mark.parametrize(("count", "level"), [(99, "0 false positives"), (100, "1% FPR")])
def test_one_percent_is_reported_only_with_a_hundred_negatives(count: int, level: str) -> None:
    found = separation([0.5, 0.5], [*np.linspace(0, 0.4, count - 1), 0.9], RATE, draws=10)
    assert found.strict_level == level
    assert found.tpr_strict == (1.0 if count == 100 else 0.0)  # one negative scores above the positive
    assert (found.positives, found.negatives) == (2, count)
    assert found.tpr_strict_interval[0] <= found.tpr_strict <= found.tpr_strict_interval[1]


def test_bad_input_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="there are 1 and 2"):
        separation([0.5], [0.5, 0.6], RATE)
    with pytest.raises(UserError, match="1 of 2 scores are not finite"):
        separation([0.5, float("nan")], [0.5, 0.6], RATE)
    with pytest.raises(UserError, match="fpr=5"):
        tpr_at_fpr(np.array([1.0]), np.array([0.0]), 5)


def test_a_distance_has_no_aruc() -> None:
    assert separation([0.1, 0.2], [0.8, 0.9], GAP, draws=10).aruc is None
    assert separation([0.9, 0.8], [0.2, 0.1], RATE, draws=10).aruc is not None


def test_aruc_is_one_for_perfect_separation_and_zero_for_none() -> None:
    assert aruc([1.0, 1.0], [0.0]) == 1.0
    assert aruc([0.0], [1.0]) == 0.0


rates = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(positives=rates, negatives=rates)
def test_aruc_equals_its_formula_in_exact_fractions(positives: list[float], negatives: list[float]) -> None:
    exact = Fraction(0)
    for s in range(1, 101):
        above = [Fraction(round(r * 20), 20) >= Fraction(s, 100) for r in positives]
        below = [Fraction(round(r * 20), 20) < Fraction(s, 100) for r in negatives]
        exact += min(Fraction(sum(above), len(above)), Fraction(sum(below), len(below))) / 100
    assert aruc(positives, negatives) == pytest.approx(float(exact), abs=1e-12)


def test_29_matches_of_100_reach_the_threshold_of_29_hundredths() -> None:
    assert aruc([29 / 100], [0.0]) == pytest.approx(0.29)
