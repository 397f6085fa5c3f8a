"""DeepJudge's own judgement: a bound of the negatives' mean for each metric, and a majority vote.

Source: Chen et al., IEEE S&P 2022, the section on final judging. Unlike the prediction bound it promises nothing about
one more negative; its reason therefore says how often it would have called one of the negatives a copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from scipy.stats import t as student_t

from rnet.defenses.calibration import FEWEST, Verdict
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives
from rnet.errors import UserError
from rnet.models.access import Access

CONFIDENCE = 0.99
BLACK_BOX, WHITE_BOX = 0.9, 0.6
"""The factors a."""


def mean_bound(negatives: Sequence[float], access: Access) -> float | None:
    """DeepJudge's threshold of one distance: a * (mean - t_{.99, n-1} * s / sqrt(n)), a = .9 black box, .6 white box.

    It is a lower confidence bound of the negatives' *mean*: with a = 1, n = 10 and normal scores 21 % of further
    negatives lie below it. None where it is below 0: no distance is. Raises UserError for fewer than two scores or ones
    that are not finite.
    """
    if len(negatives) < FEWEST or not all(math.isfinite(score) for score in negatives):
        raise UserError(f"DeepJudge's threshold needs at least {FEWEST} finite negative scores, not {list(negatives)}")
    n = len(negatives)
    reach = float(student_t.ppf(CONFIDENCE, n - 1)) * stdev(negatives) / math.sqrt(n)
    bound = (WHITE_BOX if access == "white_box" else BLACK_BOX) * (fmean(negatives) - reach)
    return bound if bound >= 0 else None


def majority_vote(scores: Mapping[str, float], negatives: Negatives, metrics: Sequence[Metric]) -> Verdict:
    """DeepJudge's final judgement: a copy iff more than half of the suspect's metrics lie at or below their threshold.

    scores: the suspect's result; negatives: those that do the victim's job count. metrics: their declarations; those
    the suspect was not scored on do not vote, those without a threshold do not vote for a copy. A negative of another
    architecture counts where it has a score. Raises UserError when nothing can vote.
    """
    voters = [metric for metric in metrics if metric.name in scores]
    if not voters:
        raise UserError(
            f"none of the metrics {', '.join(m.name for m in metrics)} was scored; there is nothing to vote"
        )
    needed = len(voters) / 2
    others = list(negatives.fit.scores.values())
    if len(others) < FEWEST:
        why = negatives.why_left_out or f"{len(others)} independent models cannot calibrate DeepJudge; train at least 2"
        return Verdict(label="undecided", threshold=needed, reason=why)
    votes, without = _votes(scores, others, voters)
    names = f" ({', '.join(votes)})" if votes else ""
    no_bound = f", {', '.join(without)} {'have' if len(without) > 1 else 'has'} no threshold above 0" if without else ""
    return Verdict(
        label="derived" if len(votes) > needed else "independent",
        threshold=needed,
        reason=f"{len(votes)} of {len(voters)} metrics vote for a copy{names}, more than {needed:g} are needed"
        f"{no_bound}; {_rate(others, voters)}",
    )


def leave_one_out_votes(negatives: Sequence[Mapping[str, float]], voters: Sequence[Metric]) -> list[bool]:
    """Whether each negative would be called a copy with the thresholds of the others; empty for fewer than three."""
    if len(negatives) <= FEWEST:
        return []
    called = []
    for i, scores in enumerate(negatives):
        its = [metric for metric in voters if metric.name in scores]
        called.append(len(_votes(scores, [*negatives[:i], *negatives[i + 1 :]], its)[0]) > len(its) / 2)
    return called


def _votes(
    scores: Mapping[str, float], others: Sequence[Mapping[str, float]], voters: Sequence[Metric]
) -> tuple[list[str], list[str]]:
    """The metrics that vote for a copy, and those that have no threshold. A score that is not finite votes against."""
    votes, without = [], []
    for metric in voters:
        found = [result[metric.name] for result in others if metric.name in result]
        finite = [score for score in found if math.isfinite(score)]
        bound = mean_bound(finite, metric.access) if len(finite) >= FEWEST else None
        if bound is None:
            without.append(metric.name)
        elif scores[metric.name] <= bound:
            votes.append(metric.name)
    return votes, without


def _rate(negatives: Sequence[Mapping[str, float]], voters: Sequence[Metric]) -> str:
    called = leave_one_out_votes(negatives, voters)
    if not called:
        return f"{len(negatives)} negatives are too few to say how often it is wrong"
    return f"left out one by one, {sum(called)} of {len(called)} negatives are called a copy"
