"""How well a metric separates derived from independent models: ROC area, true positives at few false ones, intervals.

Scores are oriented: higher means "derived" (a similarity, or minus a distance). P positives (derived models),
N negatives (independently trained ones).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnet.errors import UserError

Scores = NDArray[np.float64]

MIN_NEGATIVES_FOR_ONE_PERCENT = 100


@dataclass(frozen=True, kw_only=True)
class Separation:
    """The defender's view of one metric. Intervals are (low, high) bootstrap percentiles.

    strict_level: what tpr_strict is measured at: "1% FPR" with at least 100 negatives, else "0 false positives".
    """

    positives: int
    negatives: int
    auc: float
    auc_interval: tuple[float, float]
    tpr_at_5: float
    tpr_at_5_interval: tuple[float, float]
    tpr_strict: float
    strict_level: str


def oriented(scores: ArrayLike, direction: Literal["similarity", "distance"]) -> Scores:
    """Scores as a float64 vector in which higher means derived: a distance is negated. UserError if not finite."""
    values = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    if not np.isfinite(values).all():
        raise UserError(f"{int((~np.isfinite(values)).sum())} of {values.size} scores are not finite numbers")
    return values if direction == "similarity" else -values


def roc_auc(positives: Scores, negatives: Scores) -> float:
    """Probability that a positive scores higher than a negative, ties counting half (Mann-Whitney), in [0, 1]."""
    _need_both(positives, negatives)
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    not_above = np.searchsorted(ordered, positives, side="right")
    return float((below + not_above).mean() / (2 * len(negatives)))


def tpr_at_fpr(positives: Scores, negatives: Scores, fpr: float) -> float:
    """Largest share of positives found by a threshold that lets at most `fpr` of the negatives pass, in [0, 1].

    No interpolation between the points of the ROC: with N negatives the rates 0, 1/N, 2/N ... exist and no others.
    """
    _need_both(positives, negatives)
    if not 0 <= fpr <= 1:
        raise UserError(f"fpr={fpr!r} is not a rate between 0 and 1")
    allowed = int(np.floor(fpr * len(negatives) + 1e-9))
    if allowed >= len(negatives):
        return 1.0
    threshold = np.sort(negatives)[::-1][allowed]
    return float((positives > threshold).mean())


def bootstrap_interval(
    statistic: Callable[[Scores, Scores], float],
    positives: Scores,
    negatives: Scores,
    *,
    positive_runs: Sequence[Hashable] | None = None,
    negative_runs: Sequence[Hashable] | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of a statistic; positives and negatives are resampled separately, whole runs.

    positive_runs, negative_runs: the run of each score; scores of one run (say, checkpoints of one attack) are not
    independent and are drawn together. None: every score is its own run.
    """
    _need_both(positives, negatives)
    generator = np.random.default_rng(seed)
    positive_groups = _groups(positives, positive_runs, "positive_runs")
    negative_groups = _groups(negatives, negative_runs, "negative_runs")
    values = [
        statistic(_resample(positive_groups, generator), _resample(negative_groups, generator)) for _ in range(draws)
    ]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def separation(
    positives: ArrayLike,
    negatives: ArrayLike,
    direction: Literal["similarity", "distance"],
    *,
    positive_runs: Sequence[Hashable] | None = None,
    negative_runs: Sequence[Hashable] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Separation:
    """Everything a report says about one metric, from the raw scores of derived and of independent models.

    Raises UserError when either group is empty, a score is not finite, or runs do not match scores.
    """
    derived, independent = oriented(positives, direction), oriented(negatives, direction)
    _need_both(derived, independent)

    def interval(statistic: Callable[[Scores, Scores], float]) -> tuple[float, float]:
        return bootstrap_interval(
            statistic, derived, independent,
            positive_runs=positive_runs, negative_runs=negative_runs, draws=draws, seed=seed,
        )  # fmt: skip

    one_percent = len(independent) >= MIN_NEGATIVES_FOR_ONE_PERCENT
    return Separation(
        positives=len(derived),
        negatives=len(independent),
        auc=roc_auc(derived, independent),
        auc_interval=interval(roc_auc),
        tpr_at_5=tpr_at_fpr(derived, independent, 0.05),
        tpr_at_5_interval=interval(lambda p, n: tpr_at_fpr(p, n, 0.05)),
        tpr_strict=tpr_at_fpr(derived, independent, 0.01 if one_percent else 0.0),
        strict_level="1% FPR" if one_percent else "0 false positives",
    )


def _groups(scores: Scores, runs: Sequence[Hashable] | None, place: str) -> list[Scores]:
    """The scores of each run, in the order the runs first appear."""
    if runs is None:
        return [scores[i : i + 1] for i in range(len(scores))]
    if len(runs) != len(scores):
        raise UserError(f"{place} names {len(runs)} runs for {len(scores)} scores; give one run per score")
    return [scores[[other == run for other in runs]] for run in dict.fromkeys(runs)]


def _resample(groups: list[Scores], generator: np.random.Generator) -> Scores:
    return np.concatenate([groups[i] for i in generator.integers(len(groups), size=len(groups))])


def _need_both(positives: Scores, negatives: Scores) -> None:
    if len(positives) == 0 or len(negatives) == 0:
        raise UserError(f"a ROC needs derived and independent models; there are {len(positives)} and {len(negatives)}")
