"""One verdict per suspect over all metrics of all defences, with a false-positive rate of its own.

The scores of the suspect and of its n negatives, on each metric's scale and turned towards "derived", are standardised
together, all n + 1 alike, to z. A model's evidence is the soft maximum log(sum w exp(2 z)) / 2 over the metrics; the
weights w are equal for defences, and within one for its metrics. Under the hypothesis that the suspect is one more
negative the n + 1 numbers are exchangeable however the metrics depend on each other, so that rank and prediction bound
judge them as they judge one metric. With one metric it is that metric's own verdict.

Standardising by the negatives alone is no such rule: its maximum over twelve independent metrics calls 58 % of normal
innocent models derived with five negatives. Of mean, median, maximum and soft maximum, all within the rate where
standardised together, the soft maximum finds most derived models, whether all metrics speak, or half, or two of twelve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rnet.defenses.calibration import (
    FEWEST,
    Verdict,
    calibrate,
    judged,
    leave_one_out,
    realised_fpr,
    spread_floor,
)
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives, Scores

SHARPNESS = 2.0
"""0 would be the mean of the standardised scores, infinity their maximum."""
NO_DISTANCE = math.log(1000)
"""A distance of exactly 0 counts as a thousandth of the smallest one that is not."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One defence's scores of a suspect, and the negatives at the same fingerprint. metrics: what it declares."""

    defense: str
    metrics: Sequence[Metric]
    scores: Scores
    negatives: Negatives


@dataclass(frozen=True, kw_only=True)
class Combined:
    """The combined verdict. score: the suspect's evidence, as is the verdict's threshold; both depend on the suspect.

    metrics: what was combined, as defence/metric; left_out: the defences that have other negatives, with the reason.
    leave_one_out_fpr: the share of negatives called derived by the others; None for fewer than three.
    """

    verdict: Verdict
    score: float | None
    metrics: tuple[str, ...]
    left_out: Mapping[str, str]
    leave_one_out_fpr: float | None


def combine(tests: Sequence[Scored], alpha: float = 0.05) -> Combined:
    """The verdict over everything that the same negatives were scored on, too.

    Where defences have different negatives, those that share the most metrics count. Raises UserError for alpha outside
    (0, 0.5].
    """
    names = _shared(tests)
    used = [test for test in tests if set(names) <= test.negatives.fit.scores.keys()] if names else []
    left_out = {test.defense: "was not calibrated by the same negatives" for test in tests if test not in used}
    columns: list[tuple[str, float, Metric, list[float]]] = []
    for test in used:
        scored = _columns(test, names)
        columns += [(f"{test.defense}/{m.name}", 1 / len(scored), m, values) for m, values in scored]
    if len(names) < FEWEST or not columns:
        why = next((w for test in tests if (w := test.negatives.why_left_out)), None)
        nothing = Metric(name="the combined evidence", direction="similarity", low=-math.inf, high=math.inf)
        by = calibrate([0.0] * len(names) if columns else [], nothing, alpha)
        few = by.why_none if len(names) < FEWEST else None
        reason = why or few or "no metric has a finite score of the suspect and of all of its negatives"
        verdict = Verdict(label="undecided", threshold=None, reason=reason, calibration=by)
        return Combined(verdict=verdict, score=None, metrics=(), left_out=left_out, leave_one_out_fpr=None)
    weight_M = np.array([weight for _, weight, _, _ in columns])
    metrics = [metric for _, _, metric, _ in columns]
    evidence_JM = np.array([[m.evidence(s) for s in values] for _, _, m, values in columns]).T
    defenses = len({test.defense for test in used})
    what = f"{len(columns)} metric{'s' * (len(columns) > 1)} of {defenses} defence{'s' * (defenses > 1)}"
    metric = Metric(name=f"the evidence of {what}", direction="similarity", low=-math.inf, high=math.inf)
    score_J, floor = evidence(evidence_JM, weight_M, metrics)
    verdict = judged(float(score_J[0]), calibrate(score_J[1:].tolist(), metric, alpha, floor=floor), metric)
    return Combined(
        verdict=verdict, score=float(score_J[0]), metrics=tuple(name for name, *_ in columns), left_out=left_out,
        leave_one_out_fpr=_held_out(evidence_JM[1:], weight_M, metrics, metric, alpha),
    )  # fmt: skip


def evidence(
    evidence_JM: NDArray[np.float64], weight_M: NDArray[np.float64], metrics: Sequence[Metric]
) -> tuple[NDArray[np.float64], float]:
    """Of J models alike, the combined evidence (J,), and the smallest standard deviation that it is given.

    evidence_JM: `Metric.evidence` of the suspect (first) and of the negatives. A metric on which all are equal says
    nothing.
    """
    finite_JM = evidence_JM.copy()
    for column_J in finite_JM.T:
        finite_J = column_J[np.isfinite(column_J)]
        column_J[np.isposinf(column_J)] = (finite_J.max() if len(finite_J) else 0.0) + NO_DISTANCE
    spread_M = finite_JM.std(axis=0, ddof=1)
    scale_M = np.where(spread_M > 0, spread_M, 1.0)
    z_JM = (finite_JM - finite_JM.mean(axis=0)) / scale_M
    weight_M = weight_M / weight_M.sum()
    floors_M = np.array([spread_floor(column[1:].tolist(), m) for column, m in zip(finite_JM.T, metrics, strict=True)])
    score_J = np.log((weight_M * np.exp(SHARPNESS * z_JM)).sum(axis=1)) / SHARPNESS
    return score_J, float((weight_M * floors_M / scale_M).sum())


def _held_out(
    evidence_NM: NDArray[np.float64], weight_M: NDArray[np.float64], metrics: Sequence[Metric], metric: Metric,
    alpha: float,
) -> float | None:  # fmt: skip
    if len(evidence_NM) <= FEWEST:
        return None
    score_N, floor = evidence(evidence_NM, weight_M, metrics)
    return realised_fpr(leave_one_out(score_N.tolist(), metric, alpha, floor=floor))


def _shared(tests: Sequence[Scored]) -> list[str]:
    """The names of the negatives that most metrics share."""
    best: tuple[int, int, list[str]] = (0, 0, [])
    for candidate in (list(test.negatives.fit.scores) for test in tests):
        count = sum(len(t.scores) for t in tests if set(candidate) <= t.negatives.fit.scores.keys())
        best = max(best, (count, len(candidate), candidate), key=lambda found: found[:2])
    return best[2]


def _columns(test: Scored, names: Sequence[str]) -> list[tuple[Metric, list[float]]]:
    """The metrics that the suspect and all the negatives have finite scores of: the suspect's first, then theirs."""
    found = []
    for metric in test.metrics:
        everyone = [test.scores, *(test.negatives.scores[name] for name in names)]
        values = [scores.get(metric.name, math.nan) for scores in everyone]
        if all(math.isfinite(value) for value in values):
            found.append((metric, values))
    return found
