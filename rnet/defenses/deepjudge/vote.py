"""DeepJudge's own judgement: a bound of the negatives' mean for each metric, and a majority vote.

Source: Chen et al., IEEE S&P 2022, the section on final judging. Unlike the prediction bound it promises nothing about
one more negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from scipy.stats import t as student_t

from rnet.defenses.calibration import Verdict, check_scores
from rnet.defenses.metric import Metric
from rnet.errors import UserError
from rnet.models.access import Access

CONFIDENCE = 0.99
BLACK_BOX, WHITE_BOX = 0.9, 0.6
"""The factors a."""


def mean_bound(negatives: Sequence[float], access: Access) -> float:
    """DeepJudge's threshold of one distance: a * (mean - t_{.99, n-1} * s / sqrt(n)), a = .9 black box, .6 white box.

    It is a lower confidence bound of the negatives' *mean*: with a = 1, n = 10 and normal scores 21 % of further
    negatives lie below it. Raises UserError for fewer than two scores or ones that are not finite.
    """
    if len(negatives) < 2 or not all(math.isfinite(score) for score in negatives):
        raise UserError(f"DeepJudge's threshold needs at least 2 finite negative scores, not {list(negatives)}")
    n = len(negatives)
    reach = float(student_t.ppf(CONFIDENCE, n - 1)) * stdev(negatives) / math.sqrt(n)
    return (WHITE_BOX if access == "white_box" else BLACK_BOX) * (fmean(negatives) - reach)


def majority_vote(
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
        check_scores(metric, [scores[metric.name]])
        if scores[metric.name] <= mean_bound([result[metric.name] for result in negatives], metric.access):
            votes.append(metric.name)
    names = f" ({', '.join(votes)})" if votes else ""
    return Verdict(
        label="derived" if len(votes) > needed else "independent",
        threshold=needed,
        reason=f"{len(votes)} of {len(voters)} metrics vote for a copy{names}, more than {needed:g} are needed",
    )
