"""From scores to verdicts: thresholds learned from independently trained models (the negatives), and their honesty.

Two rules. `verdict` works for any metric: a one-sided Student-t *prediction* bound, the score that one more negative
passes with probability alpha. `deepjudge_verdict` is DeepJudge's own: a bound of the negatives' mean per metric and a
majority vote (Chen et al., IEEE S&P 2022, section on final judging); it promises nothing about one more negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.stats import t as student_t

from rnet.defenses.base import Metric
from rnet.errors import UserError, unknown_name

SPREAD_FLOOR = 0.01
"""Smallest standard deviation assumed, as a share of the gap between the negatives' mean and the perfect score."""

DEEPJUDGE_CONFIDENCE = 0.99
DEEPJUDGE_RELAXATION = {"black_box": 0.9, "white_box": 0.6}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a defender may say about one suspect.

    threshold: the score beyond which a suspect is derived, within the metric's range (for DeepJudge's vote: the number
    of metrics that must be exceeded); None when it cannot be computed. reason: one sentence with the numbers.
    """

    label: Literal["derived", "independent", "undecided"]
    threshold: float | None
    reason: str


def prediction_bound(negatives: Sequence[float], metric: Metric, alpha: float = 0.05) -> float:
    """The score that one more negative passes, towards "derived", with probability alpha. Not clipped to the range.

    Similarity: mean + t_{1-alpha, n-1} * s * sqrt(1 + 1/n); a distance is mirrored. s is the sample standard deviation
    (n-1), at least SPREAD_FLOOR times the gap between the mean and the perfect score, so that equal negatives do not
    make a threshold out of one query. Assumes normally distributed negatives. Raises UserError for fewer than two
    negatives, a score that is not finite, or alpha outside (0, 0.5].
    """
    _check(metric, negatives, alpha)
    if len(negatives) < 2:
        raise UserError(f"{metric.name} has {len(negatives)} negative scores; a threshold needs at least 2")
    n, mean = len(negatives), fmean(negatives)
    spread = max(stdev(negatives), SPREAD_FLOOR * abs(metric.perfect - mean))
    reach = float(student_t.ppf(1 - alpha, n - 1)) * spread * math.sqrt(1 + 1 / n)
    return mean + reach if metric.direction == "similarity" else mean - reach


def verdict(score: float, negatives: Sequence[float], metric: Metric, alpha: float = 0.05) -> Verdict:
    """What `score` says about a suspect, given the scores of independently trained models at the same fingerprint.

    derived: strictly beyond the prediction bound. independent: not beyond the most derived-looking negative.
    undecided: in between, or fewer than two negatives, or the negatives spread so widely that even a perfect score is
    not beyond the bound. Raises UserError for scores that are not finite and alpha outside (0, 0.5].
    """
    _check(metric, [score, *negatives], alpha)
    n = len(negatives)
    if n < 2:
        return Verdict(
            label="undecided",
            threshold=None,
            reason=f"{n} independent model{'' if n == 1 else 's'} cannot calibrate {metric.name}; train at least 2",
        )
    bound = prediction_bound(negatives, metric, alpha)
    threshold = min(max(bound, metric.low), metric.high)
    nearest = max(negatives) if metric.direction == "similarity" else min(negatives)
    beyond, within = ("above", "at or below") if metric.direction == "similarity" else ("below", "at or above")
    scored, derived_side = f"{metric.name} {score:.4g} is", f"the {alpha:.0%} bound {threshold:.4g} of {n} negatives"
    if _beyond(score, bound, metric):
        return Verdict(label="derived", threshold=threshold, reason=f"{scored} {beyond} {derived_side}")
    if not _beyond(score, nearest, metric):
        return Verdict(
            label="independent",
            threshold=threshold,
            reason=f"{scored} {within} {nearest:.4g}, the most derived-looking of {n} negatives",
        )
    if bound != threshold:
        why = f"{n} negatives spread so widely that their {alpha:.0%} bound {bound:.4g} lies outside the metric's range"
        return Verdict(label="undecided", threshold=threshold, reason=f"{scored} beyond all negatives, but {why}")
    return Verdict(
        label="undecided",
        threshold=threshold,
        reason=f"{scored} between {nearest:.4g}, the most derived-looking negative, and {derived_side}",
    )


def leave_one_out(negatives: Sequence[float], metric: Metric, alpha: float = 0.05) -> list[Verdict]:
    """Each negative's verdict with the threshold of the others: what it would have got as a suspect."""
    return [verdict(score, [*negatives[:i], *negatives[i + 1 :]], metric, alpha) for i, score in enumerate(negatives)]


def realised_fpr(verdicts_of_negatives: Sequence[Verdict]) -> float:
    """Share of negatives called derived, in [0, 1]: of held-out negatives, or of `leave_one_out`.

    Raises UserError when there is none: a rate must not be read off nothing.
    """
    if not verdicts_of_negatives:
        raise UserError("a false-positive rate needs at least one negative that was not used for the threshold")
    return sum(v.label == "derived" for v in verdicts_of_negatives) / len(verdicts_of_negatives)


def deepjudge_threshold(negatives: Sequence[float], access: Literal["black_box", "white_box"]) -> float:
    """DeepJudge's threshold of one distance: a * (mean - t_{.99, n-1} * s / sqrt(n)), a = .9 black box, .6 white box.

    It is a lower confidence bound of the negatives' *mean*: with a = 1, n = 10 and normal scores 21 % of further
    negatives lie below it. Raises UserError for fewer than two scores or ones that are not finite.
    """
    if access not in DEEPJUDGE_RELAXATION:
        raise unknown_name("access", access, DEEPJUDGE_RELAXATION)
    if len(negatives) < 2 or not all(math.isfinite(score) for score in negatives):
        raise UserError(f"DeepJudge's threshold needs at least 2 finite negative scores, not {list(negatives)}")
    n = len(negatives)
    reach = float(student_t.ppf(DEEPJUDGE_CONFIDENCE, n - 1)) * stdev(negatives) / math.sqrt(n)
    return DEEPJUDGE_RELAXATION[access] * (fmean(negatives) - reach)


def deepjudge_verdict(
    scores: Mapping[str, float], negatives: Sequence[Mapping[str, float]], metrics: Sequence[Metric]
) -> Verdict:
    """DeepJudge's final judgement: a copy iff more than half of the suspect's metrics lie at or below their threshold.

    scores: the suspect's result, and negatives: one result per negative, as `DeepJudge.verify` returns them. metrics:
    their declarations; those the suspect was not scored on do not vote. Raises UserError when a negative lacks a
    score, or nothing can vote.
    """
    voters = [metric for metric in metrics if metric.name in scores]
    if not voters:
        raise UserError(
            f"none of the metrics {', '.join(m.name for m in metrics)} was scored; there is nothing to vote"
        )
    needed = len(voters) / 2
    if len(negatives) < 2:
        return Verdict(
            label="undecided",
            threshold=needed,
            reason=f"{len(negatives)} independent models cannot calibrate DeepJudge; train at least 2",
        )
    votes = []
    for metric in voters:
        missing = sum(metric.name not in result for result in negatives)
        if missing:
            raise UserError(f"{missing} of {len(negatives)} negatives have no {metric.name} score; verify them alike")
        _check(metric, [scores[metric.name]], 0.05)
        if scores[metric.name] <= deepjudge_threshold([result[metric.name] for result in negatives], metric.access):
            votes.append(metric.name)
    names = f" ({', '.join(votes)})" if votes else ""
    return Verdict(
        label="derived" if len(votes) > needed else "independent",
        threshold=needed,
        reason=f"{len(votes)} of {len(voters)} metrics vote for a copy{names}, more than {needed:g} are needed",
    )


def deepjudge_leave_one_out(negatives: Sequence[Mapping[str, float]], metrics: Sequence[Metric]) -> list[Verdict]:
    """Each negative's DeepJudge verdict with the thresholds of the others."""
    return [
        deepjudge_verdict(result, [*negatives[:i], *negatives[i + 1 :]], metrics) for i, result in enumerate(negatives)
    ]


def _beyond(score: float, bound: float, metric: Metric) -> bool:
    """Whether the score is strictly on the derived side of the bound."""
    return score > bound if metric.direction == "similarity" else score < bound


def _check(metric: Metric, scores: Sequence[float], alpha: float) -> None:
    if not 0 < alpha <= 0.5:
        raise UserError(f"alpha={alpha!r} is not a false-positive rate; choose one in (0, 0.5], usually 0.05")
    for score in scores:
        if not math.isfinite(score):
            raise UserError(f"{metric.name} has the score {score}, which is not a number; check that model's outputs")
