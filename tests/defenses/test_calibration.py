"""Verdicts: scales, the two rules, their labels and their honesty."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import integrate, special

from rnet.defenses.calibration import (
    Verdict,
    calibrate,
    enough_negatives,
    leave_one_out,
    prediction_bound,
    realised_fpr,
    verdict,
)
from rnet.defenses.metric import Metric
from rnet.errors import UserError

RATE = Metric(name="rate", direction="similarity", low=0.0, high=1.0, perfect=1.0)
SHARE = Metric(name="share", direction="similarity", low=0.0, high=1.0, perfect=1.0, resolution=0.01)
GAP = Metric(name="gap", direction="distance", low=0.0, high=math.inf)
COSINE = Metric(name="cosine", direction="distance", low=0.0, high=2.0)
LINE = Metric(name="line", direction="similarity", low=-math.inf, high=math.inf)
METRICS = [
    RATE, SHARE, GAP, COSINE,
    Metric(name="jsd", direction="distance", low=0.0, high=math.log(2)),
    Metric(name="disagreement", direction="distance", low=0.0, high=1.0, resolution=0.05),
    Metric(name="log10_p", direction="distance", low=-300.0, high=0.0, perfect=-2.0, scale="linear"),
]  # fmt: skip
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


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
@settings(deadline=None, max_examples=20)
@given(share=st.floats(0.001, 0.999))
def test_a_score_survives_its_scale_and_back(metric: Metric, share: float) -> None:
    score = metric.low + share * (min(metric.high, 50.0) - metric.low)
    assert metric.score_at(metric.evidence(score)) == pytest.approx(score, rel=1e-9, abs=1e-12)
    nearer = metric.low + 0.9 * share * (min(metric.high, 50.0) - metric.low)
    assert (metric.evidence(nearer) > metric.evidence(score)) == (metric.direction == "distance")


def test_evidence_is_the_log_of_the_distance_and_the_logit_of_a_share_with_half_a_query_more() -> None:
    assert GAP.evidence(3.0) == pytest.approx(-math.log(3))
    assert SHARE.evidence(0.3) == pytest.approx(math.log(30.5 / 70.5))  # (k + 1/2) / (n + 1), n = 100
    assert SHARE.evidence(0.0) == pytest.approx(math.log(0.5 / 100.5))
    assert COSINE.evidence(0.5) == pytest.approx(-math.log(0.5 / (1.5 + 0.001)))
    assert [m.used_scale for m in (RATE, GAP, LINE)] == ["logit", "log", "linear"]
    assert GAP.evidence(0.0) == math.inf  # no floor: nothing is nearer to the victim than itself


def test_a_scale_that_the_range_does_not_have_is_refused() -> None:
    for scale, high in (("logit", math.inf), ("log", math.inf)):
        low = 0.0 if scale == "logit" else -math.inf
        with pytest.raises(UserError, match=f"metric m .* has no scale={scale}"):
            Metric(name="m", direction="distance", low=low, high=high, scale=scale)  # type: ignore[arg-type]


def test_the_bound_is_the_textbook_prediction_bound_on_the_metrics_scale() -> None:
    def bound(values: list[float]) -> float:
        n, mean = len(values), sum(values) / len(values)
        s = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
        return mean + quantile(0.95, n - 1) * s * math.sqrt(1 + 1 / n)

    assert prediction_bound(NEGATIVES, LINE) == pytest.approx(bound(NEGATIVES), rel=1e-6)
    assert prediction_bound(NEGATIVES, GAP) == pytest.approx(
        math.exp(-bound([-math.log(x) for x in NEGATIVES])), rel=1e-6
    )
    odds = math.exp(bound([math.log((x + 0.005) / (1 - x + 0.005)) for x in NEGATIVES]))
    assert prediction_bound(NEGATIVES, SHARE) == pytest.approx((odds * 1.005 - 0.005) / (1 + odds), rel=1e-6)


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (10, 0.05), (10, 0.2)])
def test_one_more_lognormal_distance_passes_the_bound_with_probability_alpha(n: int, alpha: float) -> None:
    scores = np.exp(np.random.default_rng(n).normal(0.4, 1.0, size=(1500, n + 1)))
    passed = [row[-1] < (prediction_bound(row[:-1].tolist(), GAP, alpha) or 0.0) for row in scores]
    assert np.mean(passed) == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / 1500))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
@settings(deadline=None, max_examples=12)
@given(data=st.data(), grid=st.sampled_from([0, 4, 20]), n=st.sampled_from([20, 40, 43]))
def test_of_20_negatives_left_out_one_by_one_at_most_5_percent_are_derived(
    metric: Metric, data: st.DataObject, grid: int, n: int
) -> None:
    low, high = metric.low, min(metric.high, 10.0)
    share = st.integers(0, grid).map(lambda k: k / grid) if grid else st.floats(0, 1)
    scores = data.draw(st.lists(share.map(lambda u: low + u * (high - low)), min_size=n, max_size=n))
    found = leave_one_out(scores, metric)
    assert realised_fpr(found) <= 0.05
    assert {v.calibration.rule for v in found if v.calibration} == {"conformal"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
@settings(deadline=None, max_examples=30)
@given(data=st.data(), n=st.integers(2, 24), alpha=st.floats(0.01, 0.5))
def test_a_threshold_is_inside_the_open_range_or_none_with_the_reason(
    metric: Metric, data: st.DataObject, n: int, alpha: float
) -> None:
    low, high = metric.low, min(metric.high, 10.0)
    scores = data.draw(st.lists(st.floats(low, high), min_size=n, max_size=n))
    found = calibrate(scores, metric, alpha)
    if found.threshold is None:
        assert found.why_none
        perfect = metric.high if metric.direction == "similarity" else metric.low
        assert verdict(perfect, scores, metric, alpha).label != "derived"
    else:
        assert metric.low < found.threshold < metric.high
    for score in scores:
        if found.rule == "student":
            assert verdict(score, scores, metric, alpha).label == "independent"  # derived is beyond all


@pytest.mark.parametrize(("alpha", "enough"), [(0.05, 19), (0.01, 99), (0.1, 9), (0.5, 1), (0.3, 3)])
def test_the_rank_decides_from_one_over_alpha_minus_one_negatives_on(alpha: float, enough: int) -> None:
    assert enough_negatives(alpha) == enough
    scores = [0.5 + i / 1000 for i in range(enough + 1)]
    found = calibrate(scores[:-1] if enough > 1 else scores, RATE, alpha)
    assert found.rule == "conformal"
    assert found.threshold == max(scores[:-1] if enough > 1 else scores[1:])
    if enough > 2:
        assert calibrate(scores[: enough - 1], RATE, alpha).rule == "student"


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(1, 30), min_size=19, max_size=60), st.integers(1, 30), st.sampled_from([0.05, 0.1, 0.2]))
def test_by_rank_a_suspect_is_derived_iff_its_conformal_p_value_is_at_most_alpha(
    negatives: list[int], score: int, alpha: float
) -> None:
    p = (1 + sum(other <= score for other in negatives)) / (len(negatives) + 1)
    found = verdict(float(score), [float(x) for x in negatives], GAP, alpha)
    assert (found.label == "derived") == (p <= alpha + 1e-9)


def test_where_all_negatives_are_at_the_far_end_the_threshold_by_rank_is_just_inside_the_range() -> None:
    assert calibrate([0.0] * 19, SHARE).threshold == pytest.approx(0.005)  # half a query
    assert verdict(0.01, [0.0] * 19, SHARE).label == "derived"
    assert calibrate([2.0] * 19, COSINE).threshold == pytest.approx(1.999)


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


def test_wide_negatives_still_have_a_threshold_where_the_linear_bound_is_below_0() -> None:
    wide = [0.5, 1.0, 4.0, 2.0, 0.9]
    linear = Metric(name="gap", direction="distance", low=0.0, high=math.inf, scale="linear")
    assert verdict(0.01, wide, linear).label == "undecided"
    assert verdict(0.01, wide, linear).threshold is None
    assert "outside the metric's range" in verdict(0.01, wide, linear).reason
    assert verdict(0.01, wide, GAP).label == "derived"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=24), st.floats(0, 1), st.floats(0.001, 0.5))
def test_a_mirrored_metric_gives_the_mirrored_verdict(negatives: list[float], score: float, alpha: float) -> None:
    minus = Metric(name="minus", direction="distance", low=-1.0, high=0.0, perfect=-1.0)
    ours, theirs = verdict(score, negatives, RATE, alpha), verdict(-score, [-x for x in negatives], minus, alpha)
    assert ours.label == theirs.label
    assert (ours.threshold is None) == (theirs.threshold is None)
    assert (ours.threshold or 0.0) == pytest.approx(-(theirs.threshold or 0.0), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=24), st.floats(0, 1), st.floats(0, 1))
def test_a_more_similar_suspect_never_looks_less_derived(negatives: list[float], a: float, b: float) -> None:
    order = ["independent", "undecided", "derived"]
    low, high = (order.index(verdict(score, negatives, RATE).label) for score in sorted((a, b)))
    assert low <= high


@pytest.mark.parametrize("negatives", [[], [0.3], [0.3, math.nan]])
def test_fewer_than_two_negatives_leave_a_suspect_undecided(negatives: list[float]) -> None:
    found = verdict(1.0, negatives, RATE)
    assert (found.label, found.threshold) == ("undecided", None)
    assert f"{sum(map(math.isfinite, negatives))} independent model" in found.reason


def test_equal_negatives_do_not_make_one_matching_query_a_proof() -> None:
    assert verdict(0.01, [0.0] * 10, SHARE).label == "undecided"
    assert verdict(0.5, [0.0] * 10, SHARE).label == "derived"
    floor = math.log(1.005 / 0.005) - math.log(0.995 / 0.015)  # the mean negative 1 % of the gap nearer to 1
    evidence = math.log(0.005 / 1.005) + floor * quantile(0.95, 9) * math.sqrt(1.1)
    odds = math.exp(evidence)
    assert verdict(0.5, [0.0] * 10, SHARE).threshold == pytest.approx((odds * 1.005 - 0.005) / (1 + odds), rel=1e-6)
    assert verdict(0.5, [1.0] * 4, GAP).threshold == pytest.approx(
        0.99 ** (quantile(0.95, 3) * math.sqrt(1.25)), rel=1e-6
    )


def test_negatives_one_query_from_perfect_leave_a_perfect_suspect_undecided() -> None:
    assert verdict(1.0, [0.99] * 3, SHARE).label == "undecided"


@pytest.mark.parametrize("metric", [RATE, SHARE, GAP, COSINE], ids=lambda m: m.name)
@pytest.mark.parametrize("n", [3, 19])
def test_negatives_as_good_as_the_victim_prove_nothing(metric: Metric, n: int) -> None:
    perfect = metric.high if metric.direction == "similarity" else metric.low
    found = verdict(perfect, [perfect] * n, metric)
    assert (found.label, found.threshold) == ("independent", None)
    assert found.calibration is not None
    assert "which no score can pass" in str(found.calibration.why_none)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_undecided_and_such_a_negative_does_not_count(score: float) -> None:
    assert verdict(score, NEGATIVES, GAP).label == "undecided"
    assert "not a finite number" in verdict(score, NEGATIVES, GAP).reason
    found = calibrate([*NEGATIVES, score], GAP)
    assert (found.negatives, found.not_finite) == (5, 1)
    assert found.threshold == calibrate(NEGATIVES, GAP).threshold


def test_reasons_are_one_line_with_the_numbers() -> None:
    for score in (0.99, 0.38, 0.1):
        reason = verdict(score, NEGATIVES, RATE).reason
        assert f"{score:.4g}" in reason
        assert "5 negatives" in reason or "negative" in reason
        assert "\n" not in reason


def test_the_promise_says_what_it_rests_on_and_what_more_negatives_would_buy() -> None:
    few = calibrate(NEGATIVES, RATE)
    assert few.promise == (
        "5% of independent models are called derived if scores are normal on the logit scale (at most 17% by rank "
        "alone); with 19 negatives 5% holds whatever the distribution"
    )
    assert few.rank_rate == pytest.approx(1 / 6)
    many = calibrate([0.3 + i / 100 for i in range(19)], RATE)
    assert many.promise == "at most 5% of independent models are called derived, whatever the distribution"
    assert "the 0.1% bound" in verdict(0.9999, NEGATIVES, RATE, 0.001).reason
    assert "no false-positive rate" in calibrate([], RATE).promise


@pytest.mark.parametrize("alpha", [0.0, 0.51, -1.0, math.nan])
def test_an_impossible_false_positive_rate_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match="alpha="):
        verdict(0.5, NEGATIVES, RATE, alpha)


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
