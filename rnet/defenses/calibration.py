"""From scores to verdicts: thresholds learned from independently trained models (the negatives), and their honesty.

Two rules, for any metric. With enough negatives, 1/alpha - 1, a suspect is derived by its rank among them: the
conformal p value (Vovk et al., Algorithmic Learning in a Random World, 2005), which needs no assumption but that an
innocent suspect is one more of them. With fewer, by a one-sided Student-t *prediction* bound on the metric's scale, the
score that one more negative passes with probability alpha, and only if it is beyond every negative, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Literal

from scipy.stats import t as student_t

from rnet.defenses.metric import Metric, Scale
from rnet.errors import UserError

SPREAD_FLOOR = 0.01
"""Smallest standard deviation assumed, as a share of the gap between the negatives' mean and the perfect score."""
FEWEST = 2
"""Negatives without which nothing is said."""

Rule = Literal["conformal", "student", "vote"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a metric's negatives allow to say.

    negatives: how many count; not_finite: how many more have no finite score. threshold: strictly beyond it a suspect
    is derived; inside the metric's open range, or None, and then why_none says why. nearest: the most derived-looking
    negative. alpha: the false-positive rate promised.
    """

    rule: Rule | None
    scale: Scale
    alpha: float
    negatives: int
    threshold: float | None
    why_none: str | None = None
    nearest: float | None = None
    not_finite: int = 0

    @property
    def rank_rate(self) -> float:
        """What "beyond all negatives" alone promises: one more of n + 1 alike models is first with 1 / (n + 1)."""
        return 1 / (self.negatives + 1)

    @property
    def promise(self) -> str:
        """The false-positive rate in words, what it rests on, and what more negatives would buy."""
        enough, rate = enough_negatives(self.alpha), percent(self.alpha)
        if self.rule is None:
            return f"no false-positive rate; {enough} negatives promise {rate} whatever the distribution"
        if self.rule == "conformal":
            return f"at most {rate} of independent models are called derived, whatever the distribution"
        return (
            f"{rate} of independent models are called derived if scores are normal on the {self.scale} scale "
            f"(at most {percent(self.rank_rate)} by rank alone); with {enough} negatives {rate} holds whatever "
            "the distribution"
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a defender may say about one suspect.

    threshold: the score beyond which a suspect is derived, inside the metric's range (for a vote: the number of metrics
    that must be exceeded); None when there is none. reason: one sentence with the numbers. normalised: the score
    relative to that of independent pairs, where the defence's paper compares so. calibration: what the threshold rests
    on.
    """

    label: Literal["derived", "independent", "undecided"]
    threshold: float | None
    reason: str
    normalised: float | None = None
    calibration: Calibration | None = None


def enough_negatives(alpha: float) -> int:
    """So many negatives promise a false-positive rate of alpha by rank alone: 19 for 5 %."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def percent(rate: float) -> str:
    """A rate in words, 5% and 0.1%."""
    return f"{100 * rate:.2g}%"


def prediction_bound(
    negatives: Sequence[float], metric: Metric, alpha: float = 0.05, *, floor: float | None = None
) -> float | None:
    """The score that one more negative passes, towards "derived", with probability alpha; None outside the open range.

    On the metric's scale: mean + t_{1-alpha, n-1} * s * sqrt(1 + 1/n), s the sample standard deviation (n-1), at least
    `spread_floor`, or floor. Assumes negatives that are normal on that scale. Raises UserError for fewer than two
    negatives, a score that is not finite, or alpha outside (0, 0.5].
    """
    check_scores(metric, negatives, alpha)
    if len(negatives) < FEWEST:
        raise UserError(f"{metric.name} has {len(negatives)} negative scores; a threshold needs at least {FEWEST}")
    if any(metric.at_best(score) for score in negatives):
        return None
    evidence = [metric.evidence(score) for score in negatives]
    return metric.score_at(_student(evidence, spread_floor(evidence, metric) if floor is None else floor, alpha))


def spread_floor(evidence: Sequence[float], metric: Metric) -> float:
    """The smallest standard deviation assumed on the scale of `Metric.evidence`.

    So far the scale moves where the mean negative comes nearer to the perfect score by SPREAD_FLOOR of their gap, or by
    half a query of a share. So equal negatives do not make a threshold out of one query.
    """
    mean = fmean(evidence)
    if metric.used_scale == "linear":
        at = mean if metric.direction == "similarity" else -mean
        return max(SPREAD_FLOOR * abs(metric.perfect - at), metric.resolution / 2)
    gap = max(metric.distance_at(mean), 0.0)
    left = gap - max(SPREAD_FLOOR * gap, metric.resolution / 2)
    best, sign = (metric.high, -1) if metric.direction == "similarity" else (metric.low, 1)
    return metric.evidence(best + sign * max(left, 0.0)) - metric.evidence(best + sign * gap) if gap else 0.0


def calibrate(
    negatives: Sequence[float], metric: Metric, alpha: float = 0.05, *, floor: float | None = None
) -> Calibration:
    """The rule and the threshold that the negatives' scores allow; floor replaces `spread_floor`.

    Scores that are not finite are left out. Raises UserError for alpha outside (0, 0.5].
    """
    check_scores(metric, (), alpha)
    scores = sorted((s for s in negatives if math.isfinite(s)), reverse=metric.direction == "similarity")
    n = len(scores)
    not_finite = len(negatives) - n

    def found(rule: Rule | None, threshold: float | None, why_none: str | None = None) -> Calibration:
        return Calibration(
            rule=rule, scale=metric.used_scale, alpha=alpha, negatives=n, threshold=threshold, why_none=why_none,
            nearest=scores[0] if scores else None, not_finite=not_finite,
        )  # fmt: skip

    if n < FEWEST:
        without = f" ({not_finite} more without a finite score)" if not_finite else ""
        models = f"{n} independent model{'' if n == 1 else 's'}{without}"
        return found(None, None, f"{models} cannot calibrate {metric.name}; train at least {FEWEST}")
    conformal = n >= enough_negatives(alpha)
    rule: Rule = "conformal" if conformal else "student"
    if conformal:
        passed_by = scores[math.floor(alpha * (n + 1) + 1e-9) - 1]
        if metric.at_best(passed_by):
            return found(rule, None, _as_good(scores[0], metric, n))
        return found(rule, metric.off_far_end(passed_by))
    if metric.at_best(scores[0]):
        return found(rule, None, _as_good(scores[0], metric, n))
    bound = prediction_bound(scores, metric, alpha, floor=floor)
    if bound is None:
        spread = "spread so widely" if scores[0] != scores[-1] else "lie so near to the end of its range"
        return found(
            rule, None, f"{n} negatives {spread} that their {percent(alpha)} bound is outside the metric's range"
        )
    return found(rule, bound if metric.beyond(bound, scores[0]) else scores[0])


def verdict(
    score: float, negatives: Sequence[float], metric: Metric, alpha: float = 0.05, *, floor: float | None = None
) -> Verdict:
    """What `score` says about a suspect, given the scores of independently trained models at the same fingerprint.

    derived: strictly beyond the threshold. independent: neither that nor beyond the most derived-looking negative.
    undecided: in between, or no threshold, or a score that is not finite. Raises UserError for alpha outside (0, 0.5].
    """
    return judged(score, calibrate(negatives, metric, alpha, floor=floor), metric)


def judged(score: float, by: Calibration, metric: Metric) -> Verdict:
    """The verdict by a calibration."""

    def say(label: Literal["derived", "independent", "undecided"], reason: str) -> Verdict:
        return Verdict(label=label, threshold=by.threshold, reason=reason, calibration=by)

    if not math.isfinite(score):
        return say("undecided", f"{metric.name} is {score}, which is not a finite number; check the suspect's outputs")
    if by.nearest is None or by.negatives < FEWEST:
        return say("undecided", str(by.why_none))
    beyond, within = ("above", "at or below") if metric.direction == "similarity" else ("below", "at or above")
    scored = f"{metric.name} {score:.4g} is"
    many = f"{by.negatives} negatives"
    if by.threshold is not None and metric.beyond(score, by.threshold):
        side = f"the {percent(by.alpha)} bound {by.threshold:.4g} of {many}"
        if by.threshold == by.nearest:
            side = f"{by.threshold:.4g}, the most derived-looking of {many}"
        return say("derived", f"{scored} {beyond} {side}")
    if not metric.beyond(score, by.nearest):
        return say("independent", f"{scored} {within} {by.nearest:.4g}, the most derived-looking of {many}")
    if by.threshold is None:
        return say("undecided", f"{scored} beyond all negatives, but {by.why_none}")
    return say(
        "undecided",
        f"{scored} between {by.nearest:.4g}, the most derived-looking negative, and the {percent(by.alpha)} bound "
        f"{by.threshold:.4g} of {many}",
    )


def leave_one_out(
    negatives: Sequence[float], metric: Metric, alpha: float = 0.05, *, floor: float | None = None
) -> list[Verdict]:
    """Each negative's verdict with the threshold of the others: what it would have got as a suspect."""
    return [
        verdict(score, [*negatives[:i], *negatives[i + 1 :]], metric, alpha, floor=floor)
        for i, score in enumerate(negatives)
    ]


def realised_fpr(verdicts_of_negatives: Sequence[Verdict]) -> float:
    """Share of negatives called derived, in [0, 1]: of held-out negatives, or of `leave_one_out`.

    Raises UserError when there is none: a rate must not be read off nothing.
    """
    if not verdicts_of_negatives:
        raise UserError("a false-positive rate needs at least one negative that was not used for the threshold")
    return sum(v.label == "derived" for v in verdicts_of_negatives) / len(verdicts_of_negatives)


def check_scores(metric: Metric, scores: Sequence[float], alpha: float = 0.05) -> None:
    """Raises UserError for an alpha that is no false-positive rate, and a score that is not a number."""
    if not 0 < alpha <= 0.5:
        raise UserError(f"alpha={alpha!r} is not a false-positive rate; choose one in (0, 0.5], usually 0.05")
    for score in scores:
        if not math.isfinite(score):
            raise UserError(f"{metric.name} has the score {score}, which is not a number; check that model's outputs")


def _student(evidence: Sequence[float], floor: float, alpha: float) -> float:
    n = len(evidence)
    return fmean(evidence) + _quantile(1 - alpha, n - 1) * max(stdev(evidence), floor) * math.sqrt(1 + 1 / n)


@cache
def _quantile(p: float, freedom: int) -> float:
    return float(student_t.ppf(p, freedom))


def _as_good(score: float, metric: Metric, n: int) -> str:
    return f"the most derived-looking of {n} negatives has {metric.name} {score:.4g}, which no score can pass"
