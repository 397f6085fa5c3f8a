"""DeepJudge's vote: its thresholds, its majority, and what is said of its honesty."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from rnet.defenses.deepjudge.vote import leave_one_out_votes, majority_vote, mean_bound
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives
from rnet.errors import UserError

NEGATIVES = [0.30, 0.36, 0.33, 0.29, 0.32]


def test_deepjudges_threshold_is_its_relaxed_bound_of_the_mean() -> None:
    n, mean = 5, sum(NEGATIVES) / 5
    reach = stats.t.ppf(0.99, n - 1) * statistics.stdev(NEGATIVES) / math.sqrt(n)
    assert mean_bound(NEGATIVES, "logits") == pytest.approx(0.9 * (mean - reach), rel=1e-6)
    assert mean_bound(NEGATIVES, "white_box") == pytest.approx(0.6 * (mean - reach), rel=1e-6)


def test_a_bound_of_the_mean_lets_a_fifth_of_the_negatives_below_it() -> None:
    scores = np.random.default_rng(0).normal(1.0, 0.1, size=(1500, 11))
    below = [row[-1] <= (mean_bound(row[:-1].tolist(), "logits") or 0.0) / 0.9 for row in scores]
    expected = stats.t.cdf(-stats.t.ppf(0.99, 9) / math.sqrt(10) / math.sqrt(1.1), 9)
    assert expected == pytest.approx(0.21, abs=0.005)
    assert np.mean(below) == pytest.approx(expected, abs=0.04)


def metrics(count: int) -> list[Metric]:
    return [Metric(name=f"m{i}", direction="distance", low=0.0, high=1.0) for i in range(count)]


def test_a_copy_needs_more_than_half_of_the_votes() -> None:
    negatives = [{f"m{i}": value for i in range(4)} for value in (0.50, 0.52, 0.51)]
    for votes, label in ((0, "independent"), (2, "independent"), (3, "derived"), (4, "derived")):
        scores = {f"m{i}": 0.0 if i < votes else 0.5 for i in range(4)}
        found = majority_vote(scores, Negatives.of(negatives), metrics(4))
        assert (found.label, found.threshold) == (label, 2.0)
        assert f"{votes} of 4" in found.reason


def test_a_score_equal_to_its_threshold_votes_for_a_copy() -> None:
    negatives = Negatives.of([{"m0": value} for value in NEGATIVES])
    tau = mean_bound(NEGATIVES, "logits")
    assert tau is not None
    assert majority_vote({"m0": tau}, negatives, metrics(1)).label == "derived"
    assert majority_vote({"m0": math.nextafter(tau, 1)}, negatives, metrics(1)).label == "independent"


def test_white_box_metrics_are_relaxed_more() -> None:
    negatives = Negatives.of([{"m0": 0.5}, {"m0": 0.5}])
    white = [Metric(name="m0", direction="distance", low=0.0, high=1.0, access="white_box")]
    assert majority_vote({"m0": 0.4}, negatives, metrics(1)).label == "derived"  # .4 <= .9 * .5
    assert majority_vote({"m0": 0.4}, negatives, white).label == "independent"  # .4 > .6 * .5


def test_metrics_the_suspect_was_not_scored_on_do_not_vote() -> None:
    negatives = Negatives.of([{"m0": 0.5, "m1": 0.5}, {"m0": 0.5, "m1": 0.5}])
    assert majority_vote({"m1": 0.0}, negatives, metrics(2)).reason.startswith("1 of 1")
    with pytest.raises(UserError, match="nothing"):
        majority_vote({"other": 0.0}, negatives, metrics(2))


def test_a_negative_of_another_architecture_counts_where_it_has_a_score() -> None:
    negatives = [{"m0": 0.5, "m1": 0.5}, {"m0": 0.501, "m1": 0.501}, {"m1": 0.5}]
    found = majority_vote({"m0": 0.0, "m1": 0.0}, Negatives.of(negatives), metrics(2))
    assert found.label == "derived"
    one = majority_vote({"m0": 0.0, "m1": 0.0}, Negatives.of([{"m0": 0.5, "m1": 0.5}, {"m1": 0.5}]), metrics(2))
    assert (one.label, "m0 has no threshold" in one.reason) == ("independent", True)


def test_a_threshold_below_0_is_none_and_said() -> None:
    wide = [0.1, 0.9, 0.5]
    assert mean_bound(wide, "logits") is None
    found = majority_vote({"m0": 0.0}, Negatives.of([{"m0": value} for value in wide]), metrics(1))
    assert found.label == "independent"
    assert "m0 has no threshold above 0" in found.reason


def test_the_reason_says_how_many_negatives_the_others_would_call_a_copy() -> None:
    values = [0.50, 0.52, 0.51, 0.49, 0.20]  # 0.20 is no copy by a bound that it widens itself
    votes = leave_one_out_votes([{"m0": value} for value in values], metrics(1))
    expected = []
    for i, value in enumerate(values):
        bound = mean_bound([*values[:i], *values[i + 1 :]], "logits")
        expected.append(bound is not None and value <= bound)
    assert votes == expected
    assert sum(votes) == 1
    found = majority_vote({"m0": 0.2}, Negatives.of([{"m0": value} for value in values]), metrics(1))
    assert found.reason.endswith("left out one by one, 1 of 5 negatives are called a copy")
    two = majority_vote({"m0": 0.2}, Negatives.of([{"m0": value} for value in values[:2]]), metrics(1))
    assert two.reason.endswith("2 negatives are too few to say how often it is wrong")


def test_deepjudge_is_undecided_with_one_negative_that_does_the_victims_job() -> None:
    assert majority_vote({"m0": 0.0}, Negatives.of([{"m0": 0.5}]), metrics(1)).label == "undecided"
    lazy = Negatives(
        scores={"a": {"m0": 0.5}, "b": {"m0": 0.5}}, accuracies={"a": 0.9, "b": 0.2}, victim_accuracy=0.95, chance=0.1
    )
    found = majority_vote({"m0": 0.0}, lazy, metrics(1))
    assert found.label == "undecided"
    assert "1 of 2 negatives reaches 20% where the victim has 95%" in found.reason


def test_deepjudges_threshold_refuses_what_it_cannot_use() -> None:
    with pytest.raises(UserError, match="at least 2 finite"):
        mean_bound([0.3], "logits")
    with pytest.raises(UserError, match="at least 2 finite"):
        mean_bound([0.3, math.nan], "white_box")
