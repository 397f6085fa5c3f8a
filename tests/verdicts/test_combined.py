"""The combined verdict: its error rate on simulated scores, its agreement with single metrics, what it leaves out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rnet.defenses.calibration import verdict
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives
from rnet.verdicts.combined import Scored, combine, evidence

ALPHA = 0.05
SHARE = Metric(name="share", direction="similarity", low=0.0, high=1.0, perfect=1.0, resolution=0.01)
GAP = Metric(name="gap", direction="distance", low=0.0, high=math.inf)
LINE = Metric(name="line", direction="similarity", low=-math.inf, high=math.inf)


def scored(columns: dict[str, list[Metric]], values_JM: np.ndarray) -> list[Scored]:
    """One defence for each key; the first row of the values is the suspect's."""
    tests, column = [], 0
    for name, metrics in columns.items():
        rows = [{metric.name: float(row[column + i]) for i, metric in enumerate(metrics)} for row in values_JM]
        column += len(metrics)
        tests.append(Scored(defense=name, metrics=metrics, scores=rows[0], negatives=Negatives.of(rows[1:])))
    return tests


def normal(generator: np.random.Generator, models: int, metrics: int, correlation: float) -> np.ndarray:
    common = generator.normal(size=(models, 1))
    own = generator.normal(size=(models, metrics))
    return math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own


@pytest.mark.parametrize("negatives", [5, 10, 20])
@pytest.mark.parametrize("correlation", [0.0, 0.95])
@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_one_more_negative_is_called_derived_as_rarely_as_promised(
    kind: str, correlation: float, negatives: int
) -> None:
    """Eight metrics of two defences, independent or nearly the same; lognormal distances have a logarithmic scale."""
    generator, trials = np.random.default_rng([negatives, round(correlation * 100)]), 300
    metric = LINE if kind == "normal" else GAP
    columns = {"a": [metric_of(metric, i) for i in range(2)], "b": [metric_of(metric, i) for i in range(6)]}
    called = 0
    for _ in range(trials):
        values = normal(generator, negatives + 1, 8, correlation)
        found = combine(scored(columns, values if kind == "normal" else np.exp(values)), ALPHA)
        called += found.verdict.label == "derived"
    assert called / trials <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / trials)
    assert called > 0


def metric_of(metric: Metric, number: int) -> Metric:
    return Metric(name=f"{metric.name}{number}", direction=metric.direction, low=metric.low, high=metric.high)


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_from_19_negatives_on_no_distribution_breaks_the_rate(skew: float) -> None:
    generator, trials, called = np.random.default_rng(7), 300, 0
    columns = {"a": [LINE], "b": [metric_of(LINE, i) for i in range(3)]}
    for _ in range(trials):
        values = normal(generator, 20, 4, 0.5)
        called += combine(scored(columns, np.exp(3 * values) if skew else values)).verdict.label == "derived"
    assert called / trials <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / trials)


@pytest.mark.parametrize("metric", [GAP, SHARE, LINE], ids=lambda m: m.name)
@pytest.mark.parametrize("negatives", [2, 5, 19])
def test_with_one_metric_it_is_that_metrics_own_verdict(metric: Metric, negatives: int) -> None:
    generator, seen = np.random.default_rng(negatives), set()
    for _ in range(150):
        values = 1 / (1 + np.exp(-generator.normal(size=(negatives + 1, 1)))) if metric is not LINE else (
            generator.normal(size=(negatives + 1, 1)))  # fmt: skip
        values[0] += generator.choice([0.0, 0.3]) * (1 - values[0]) * (-1 if metric is GAP else 1)
        if generator.random() < 0.3:
            values[0] = 0.0 if metric is GAP else 1.0
        own = verdict(float(values[0, 0]), values[1:, 0].tolist(), metric)
        found = combine(scored({"a": [metric]}, values)).verdict
        assert found.label == own.label or metric.at_best(float(values[0, 0]))
        seen.add(own.label)
    assert len(seen) > 1


def test_many_metrics_that_each_say_a_little_are_enough_together() -> None:
    values = normal(np.random.default_rng(1), 6, 12, 0.0)
    values[0] = 1.5
    columns = {str(i): [metric_of(LINE, i)] for i in range(12)}
    tests = scored(columns, values)
    assert combine(tests).verdict.label == "derived"
    alone = [combine([test]).verdict.label for test in tests]
    assert alone.count("derived") < 12


def test_two_metrics_of_twelve_that_say_much_are_enough_with_ten_negatives() -> None:
    values = normal(np.random.default_rng(2), 11, 12, 0.0)
    values[0, :2] = 12.0
    assert combine(scored({str(i): [metric_of(LINE, i)] for i in range(12)}, values)).verdict.label == "derived"


def test_a_distance_of_exactly_0_is_strong_but_finite_evidence() -> None:
    values = np.array([[0.0], [1.0], [2.0], [1.5], [1.2], [0.9]])
    found = combine(scored({"zest": [GAP]}, values))
    assert found.verdict.label == "derived"
    assert found.score is not None
    assert math.isfinite(found.score)


def test_the_verdict_says_its_numbers_its_rule_and_its_rate() -> None:
    values = np.exp(normal(np.random.default_rng(3), 8, 3, 0.2))
    values[0] = 0.001
    found = combine(scored({"a": [GAP], "b": [metric_of(GAP, 0), metric_of(GAP, 1)]}, values))
    assert found.metrics == ("a/gap", "b/gap0", "b/gap1")
    assert found.verdict.reason.startswith("the evidence of 3 metrics of 2 defences ")
    assert "of 7 negatives" in found.verdict.reason
    assert found.verdict.calibration is not None
    assert found.verdict.calibration.rule == "student"
    assert found.leave_one_out_fpr is not None
    assert found.leave_one_out_fpr * 7 == pytest.approx(round(found.leave_one_out_fpr * 7))
    assert combine(scored({"a": [GAP]}, values[:3, :1])).leave_one_out_fpr is None


def test_left_out_one_by_one_at_most_one_of_twenty_is_derived() -> None:
    generator = np.random.default_rng(4)
    for _ in range(30):
        values = np.round(generator.exponential(size=(21, 4)), 1) + 0.1  # ties
        rate = combine(scored({"a": [metric_of(GAP, i) for i in range(4)]}, values)).leave_one_out_fpr
        assert rate is not None
        assert rate <= 0.05


def test_the_order_of_the_negatives_does_not_matter() -> None:
    values = normal(np.random.default_rng(5), 7, 3, 0.3)
    columns = {"a": [metric_of(LINE, i) for i in range(3)]}
    first, second = (combine(scored(columns, v)) for v in (values, values[[0, 3, 1, 2, 6, 5, 4]]))
    assert first.score == pytest.approx(second.score)
    assert first.verdict.threshold == pytest.approx(second.verdict.threshold)


def test_evidence_is_the_soft_maximum_of_what_is_standardised_together() -> None:
    values = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    scores, _ = evidence(values, np.array([1.0, 1.0]), [LINE, LINE])
    z = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    assert scores == pytest.approx([math.log((math.exp(2 * a) + math.exp(2 * b)) / 2) / 2 for a, b in z])


def test_defences_with_other_negatives_are_left_out_and_named() -> None:
    values = normal(np.random.default_rng(6), 6, 3, 0.0)
    same = scored({"a": [metric_of(LINE, 0)], "b": [metric_of(LINE, 1)]}, values)
    others = Negatives(scores={f"disjoint{i}": {"line": 0.1 * i} for i in range(9)})
    odd = Scored(defense="c", metrics=[LINE], scores={"line": 1.0}, negatives=others)
    found = combine([odd, *same])
    assert found.metrics == ("a/line0", "b/line1")
    assert found.left_out == {"c": "was not calibrated by the same negatives"}


def test_a_metric_that_a_negative_or_the_suspect_lacks_is_not_combined() -> None:
    values = normal(np.random.default_rng(8), 6, 2, 0.0)
    (test,) = scored({"a": [metric_of(LINE, 0), metric_of(LINE, 1)]}, values)
    for scores in (test.negatives.scores["2"], test.scores):
        kept = scores.pop("line1")  # type: ignore[attr-defined]
        assert combine([test]).metrics == ("a/line0",)
        scores["line1"] = kept  # type: ignore[index]
    assert len(combine([test]).metrics) == 2


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_negatives_leave_it_undecided_with_the_reason(count: int) -> None:
    found = combine(scored({"a": [LINE]}, np.zeros((1 + count, 1))))
    assert (found.verdict.label, found.score) == ("undecided", None)
    assert f"{count} independent model" in found.verdict.reason
    two = Negatives.of([{"line": 0.0}, {"line": 1.0}])
    found = combine([Scored(defense="a", metrics=[LINE], scores={"line": math.nan}, negatives=two)])
    assert "no metric has a finite score" in found.verdict.reason
    lazy = Negatives(
        scores={"x": {"line": 0.0}, "y": {"line": 1.0}}, accuracies={"x": 0.1, "y": 0.1}, victim_accuracy=0.9
    )
    found = combine([Scored(defense="a", metrics=[LINE], scores={"line": 1.0}, negatives=lazy)])
    assert "2 of 2 negatives reach 10% where the victim has 90%" in found.verdict.reason


def test_equal_negatives_do_not_make_one_query_a_proof() -> None:
    one = combine(scored({"ipguard": [SHARE]}, np.array([[0.01], *[[0.0]] * 8])))
    many = combine(scored({"ipguard": [SHARE]}, np.array([[0.5], *[[0.0]] * 8])))
    assert (one.verdict.label, many.verdict.label) == ("undecided", "derived")
