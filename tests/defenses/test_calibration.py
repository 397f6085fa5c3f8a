"""Verdicts: the prediction bound, its labels, its honesty, and DeepJudge's vote."""

from __future__ import annotations

import math
import statistics

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import integrate, special, stats

from rnet.defenses.calibration import Verdict, leave_one_out, prediction_bound, realised_fpr, verdict
from rnet.defenses.deepjudge.vote import majority_vote, mean_bound
from rnet.defenses.metric import Metric
from rnet.errors import UserError

RATE = Metric(name="rate", direction="similarity", low=0.0, high=1.0, perfect=1.0)
GAP = Metric(name="gap", direction="distance", low=0.0, high=math.inf)
NEGATIVES = [0.30, 0.36, 0.33, 0.29, 0.32]


def quantile(p: float, freedom: int) -> float:
    """Student's t quantile by integrating the density and bisection: independent of scipy.stats."""
    scale = special.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * special.gamma(freedom / 2))
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        below = 0.5 + scale * integrate.quad(lambda x: (1 + x * x / freedom) ** (-(freedom + 1) / 2), 0, middle)[0]
        low, high = (middle, high) if below < p else (low, middle)
    return low


def test_the_bound_is_the_textbook_prediction_bound() -> None:
    n, mean = 5, sum(NEGATIVES) / 5
    s = math.sqrt(sum((x - mean) ** 2 for x in NEGATIVES) / (n - 1))
    reach = quantile(0.95, n - 1) * s * math.sqrt(1 + 1 / n)
    assert prediction_bound(NEGATIVES, RATE) == pytest.approx(mean + reach, rel=1e-6)
    assert prediction_bound(NEGATIVES, GAP) == pytest.approx(mean - reach, rel=1e-6)


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (10, 0.05), (10, 0.2)])
def test_one_more_normal_negative_passes_the_bound_with_probability_alpha(n: int, alpha: float) -> None:
    scores = np.random.default_rng(n).normal(0.4, 0.1, size=(1500, n + 1))
    metric = Metric(name="any", direction="similarity", low=-math.inf, high=math.inf, perfect=0.4)  # no floor
    passed = [row[-1] > prediction_bound(row[:-1].tolist(), metric, alpha) for row in scores]
    assert np.mean(passed) == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / 1500))


@pytest.mark.parametrize(
    ("score", "label"), [(0.99, "derived"), (0.38, "undecided"), (0.36, "independent"), (0.1, "independent")]
)
def test_a_similarity_is_derived_above_the_bound_and_independent_among_the_negatives(score: float, label: str) -> None:
    assert verdict(score, NEGATIVES, RATE).label == label


@pytest.mark.parametrize(
    ("score", "label"), [(0.0, "derived"), (0.27, "undecided"), (0.29, "independent"), (5.0, "independent")]
)
def test_a_distance_is_derived_below_the_bound_and_independent_among_the_negatives(score: float, label: str) -> None:
    assert verdict(score, NEGATIVES, GAP).label == label


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0, 1), st.floats(0.001, 0.5))
def test_a_mirrored_metric_gives_the_mirrored_verdict(negatives: list[float], score: float, alpha: float) -> None:
    minus = Metric(name="minus", direction="distance", low=-1.0, high=0.0, perfect=-1.0)
    ours, theirs = verdict(score, negatives, RATE, alpha), verdict(-score, [-x for x in negatives], minus, alpha)
    assert ours.label == theirs.label
    assert ours.threshold is not None
    assert ours.threshold == pytest.approx(-(theirs.threshold or 0.0), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_a_more_similar_suspect_never_looks_less_derived(negatives: list[float], a: float, b: float) -> None:
    order = ["independent", "undecided", "derived"]
    low, high = (order.index(verdict(score, negatives, RATE).label) for score in sorted((a, b)))
    assert low <= high


def test_the_threshold_is_clipped_to_the_range_and_then_nothing_is_derived() -> None:
    wide = verdict(1.0, [0.1, 0.9, 0.5], RATE)
    assert (wide.threshold, wide.label) == (1.0, "undecided")
    assert "outside" in wide.reason
    zero = verdict(0.0, [0.1, 0.9, 0.5], GAP)
    assert (zero.threshold, zero.label) == (0.0, "undecided")


@pytest.mark.parametrize("negatives", [[], [0.3]])
def test_fewer_than_two_negatives_leave_a_suspect_undecided(negatives: list[float]) -> None:
    found = verdict(1.0, negatives, RATE)
    assert (found.label, found.threshold) == ("undecided", None)
    assert str(len(negatives)) in found.reason


def test_equal_negatives_do_not_make_one_matching_query_a_proof() -> None:
    assert verdict(0.01, [0.0] * 10, RATE).label == "undecided"
    assert verdict(0.5, [0.0] * 10, RATE).label == "derived"
    expected = 0.01 * quantile(0.95, 9) * math.sqrt(1.1)  # the floor: 1 % of the gap between 0 and a perfect 1
    assert verdict(0.5, [0.0] * 10, RATE).threshold == pytest.approx(expected, rel=1e-6)


def test_negatives_as_good_as_the_victim_prove_nothing() -> None:
    assert verdict(1.0, [1.0, 1.0, 1.0], RATE).label == "independent"


def test_reasons_are_one_line_with_the_numbers() -> None:
    for score in (0.99, 0.38, 0.1):
        reason = verdict(score, NEGATIVES, RATE).reason
        assert f"{score:.4g}" in reason
        assert "5 negatives" in reason
        assert "\n" not in reason


@pytest.mark.parametrize("alpha", [0.0, 0.51, -1.0, math.nan])
def test_an_impossible_false_positive_rate_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match="alpha="):
        verdict(0.5, NEGATIVES, RATE, alpha)


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="rate has the score nan"):
        verdict(math.nan, NEGATIVES, RATE)
    with pytest.raises(UserError, match="rate has the score inf"):
        verdict(0.5, [*NEGATIVES, math.inf], RATE)


def test_leaving_one_out_never_uses_the_negative_itself() -> None:
    negatives = [0.30, 0.31, 0.32, 0.95]
    found = leave_one_out(negatives, RATE)
    assert [v.label for v in found] == ["independent", "independent", "independent", "derived"]
    assert found[3] == verdict(0.95, negatives[:3], RATE)
    assert verdict(0.95, negatives, RATE).label == "independent"  # what using it would have said


def test_the_realised_false_positive_rate_counts_derived_only() -> None:
    derived = Verdict(label="derived", threshold=None, reason="")
    undecided = Verdict(label="undecided", threshold=None, reason="")
    independent = Verdict(label="independent", threshold=None, reason="")
    verdicts = [derived, undecided, independent, derived, independent]
    assert realised_fpr(verdicts) == 0.4
    with pytest.raises(UserError, match="at least one negative"):
        realised_fpr([])


# --- DeepJudge's own rule


def test_deepjudges_threshold_is_its_relaxed_bound_of_the_mean() -> None:
    n, mean = 5, sum(NEGATIVES) / 5
    reach = quantile(0.99, n - 1) * statistics.stdev(NEGATIVES) / math.sqrt(n)
    assert mean_bound(NEGATIVES, "logits") == pytest.approx(0.9 * (mean - reach), rel=1e-6)
    assert mean_bound(NEGATIVES, "white_box") == pytest.approx(0.6 * (mean - reach), rel=1e-6)


def test_a_bound_of_the_mean_lets_a_fifth_of_the_negatives_below_it() -> None:
    scores = np.random.default_rng(0).normal(1.0, 0.1, size=(1500, 11))
    below = [row[-1] <= mean_bound(row[:-1].tolist(), "logits") / 0.9 for row in scores]
    expected = stats.t.cdf(-quantile(0.99, 9) / math.sqrt(10) / math.sqrt(1.1), 9)
    assert expected == pytest.approx(0.21, abs=0.005)
    assert np.mean(below) == pytest.approx(expected, abs=0.04)


def metrics(count: int) -> list[Metric]:
    return [Metric(name=f"m{i}", direction="distance", low=0.0, high=1.0) for i in range(count)]


def test_a_copy_needs_more_than_half_of_the_votes() -> None:
    negatives = [{f"m{i}": value for i in range(4)} for value in (0.50, 0.52, 0.51)]
    for votes, label in ((0, "independent"), (2, "independent"), (3, "derived"), (4, "derived")):
        scores = {f"m{i}": 0.0 if i < votes else 0.5 for i in range(4)}
        found = majority_vote(scores, negatives, metrics(4))
        assert (found.label, found.threshold) == (label, 2.0)
        assert f"{votes} of 4" in found.reason


def test_a_score_equal_to_its_threshold_votes_for_a_copy() -> None:
    negatives = [{"m0": value} for value in NEGATIVES]
    tau = mean_bound(NEGATIVES, "logits")
    assert majority_vote({"m0": tau}, negatives, metrics(1)).label == "derived"
    assert majority_vote({"m0": math.nextafter(tau, 1)}, negatives, metrics(1)).label == "independent"


def test_white_box_metrics_are_relaxed_more() -> None:
    negatives = [{"m0": 0.5}, {"m0": 0.5}]
    white = [Metric(name="m0", direction="distance", low=0.0, high=1.0, access="white_box")]
    assert majority_vote({"m0": 0.4}, negatives, metrics(1)).label == "derived"  # .4 <= .9 * .5
    assert majority_vote({"m0": 0.4}, negatives, white).label == "independent"  # .4 > .6 * .5


def test_metrics_the_suspect_was_not_scored_on_do_not_vote() -> None:
    negatives = [{"m0": 0.5, "m1": 0.5}, {"m0": 0.5, "m1": 0.5}]
    assert majority_vote({"m1": 0.0}, negatives, metrics(2)).reason.startswith("1 of 1")
    with pytest.raises(UserError, match="nothing"):
        majority_vote({"other": 0.0}, negatives, metrics(2))
    with pytest.raises(UserError, match="1 of 2 negatives have no m0 score"):
        majority_vote({"m0": 0.0}, [{"m0": 0.5}, {"m1": 0.5}], metrics(2))


def test_deepjudge_is_undecided_with_one_negative() -> None:
    assert majority_vote({"m0": 0.0}, [{"m0": 0.5}], metrics(1)).label == "undecided"


def test_deepjudges_threshold_refuses_what_it_cannot_use() -> None:
    with pytest.raises(UserError, match="at least 2 finite"):
        mean_bound([0.3], "logits")
    with pytest.raises(UserError, match="at least 2 finite"):
        mean_bound([0.3, math.nan], "white_box")
