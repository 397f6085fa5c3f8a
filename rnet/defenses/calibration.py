"""From scores to verdicts: thresholds learned from independently trained models (the negatives), and their honesty.

The rule works for any metric: a one-sided Student-t *prediction* bound, the score that one more negative passes with
probability alpha. It is how a defence judges that has no rule of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy.stats import t as student_t

from rnet.defenses.metric import Metric
from rnet.errors import UserError

SPREAD_FLOOR = 0.01
"""Smallest standard deviation assumed, as a share of the gap between the negatives' mean and the perfect score."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a defender may say about one suspect.

    threshold: the score beyond which a suspect is derived, within the metric's range (for a vote: the number of metrics
    that must be exceeded); None when it cannot be computed. reason: one sentence with the numbers. normalised: the
    score relative to the negatives' mean, where the defence's paper compares so.
    """

    label: Literal["derived", "independent", "undecided"]
    threshold: float | None
    reason: str
    normalised: float | None = None


def prediction_bound(negatives: Sequence[float], metric: Metric, alpha: float = 0.05) -> float:
    """The score that one more negative passes, towards "derived", with probability alpha. Not clipped to the range.

    Similarity: mean + t_{1-alpha, n-1} * s * sqrt(1 + 1/n); a distance is mirrored. s is the sample standard deviation
    (n-1), at least SPREAD_FLOOR times the gap between the mean and the perfect score, so that equal negatives do not
    make a threshold out of one query. Assumes normally distributed negatives. Raises UserError for fewer than two
    negatives, a score that is not finite, or alpha outside (0, 0.5].
    """
    check_scores(metric, negatives, alpha)
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
    check_scores(metric, [score, *negatives], alpha)
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


def _beyond(score: float, bound: float, metric: Metric) -> bool:
    """Whether the score is strictly on the derived side of the bound."""
    return score > bound if metric.direction == "similarity" else score < bound


def check_scores(metric: Metric, scores: Sequence[float], alpha: float = 0.05) -> None:
    """Raises UserError for an alpha that is no false-positive rate, and a score that is not a number."""
    if not 0 < alpha <= 0.5:
        raise UserError(f"alpha={alpha!r} is not a false-positive rate; choose one in (0, 0.5], usually 0.05")
    for score in scores:
        if not math.isfinite(score):
            raise UserError(f"{metric.name} has the score {score}, which is not a number; check that model's outputs")
