"""How well a metric separates derived from independent models: ROC area, true positives at few false ones, intervals.

Scores are oriented: higher means "derived" (a similarity, or minus a distance). P positives (derived models),
N negatives (independently trained ones). Statistics work on the last axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnet.defenses.metric import Metric
from rnet.errors import UserError

Scores = NDArray[np.float64]

MIN_NEGATIVES_FOR_ONE_PERCENT = 100
FEWEST = 2
"""Models of each kind without which nothing is said about separation."""


@dataclass(frozen=True, kw_only=True)
class Separation:
    """The defender's view of one metric. Intervals are (low, high) bootstrap percentiles.

    strict_level: what tpr_strict is measured at: "1% FPR" with at least 100 negatives, else "0 false positives". aruc:
    the area under the robustness-uniqueness curves, for similarities in [0, 1].
    """

    positives: int
    negatives: int
    auc: float
    auc_interval: tuple[float, float]
    tpr_at_5: float
    tpr_at_5_interval: tuple[float, float]
    tpr_strict: float
    tpr_strict_interval: tuple[float, float]
    strict_level: str
    aruc: float | None


def oriented(scores: ArrayLike, direction: Literal["similarity", "distance"]) -> Scores:
    """Scores as a float64 vector in which higher means derived: a distance is negated. UserError if not finite."""
    values = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    if not np.isfinite(values).all():
        raise UserError(f"{int((~np.isfinite(values)).sum())} of {values.size} scores are not finite numbers")
    return values if direction == "similarity" else -values


def roc_auc(positives: Scores, negatives: Scores) -> Any:
    """Probability that a positive scores higher than a negative, ties counting half (Mann-Whitney), in [0, 1].

    The same as sklearn's roc_auc_score, whose checks take longer than the thousands of metrics of a sweep may.
    """
    return (np.sign(positives[..., :, None] - negatives[..., None, :]).mean(axis=(-2, -1)) + 1) / 2


def tpr_at_fpr(positives: Scores, negatives: Scores, fpr: float) -> Any:
    """Largest share of positives found by a threshold that lets at most `fpr` of the negatives pass, in [0, 1].

    No interpolation between the points of the ROC: with N negatives the rates 0, 1/N, 2/N ... exist and no others.
    """
    if not 0 <= fpr <= 1:
        raise UserError(f"fpr={fpr!r} is not a rate between 0 and 1")
    count = negatives.shape[-1]
    allowed = _allowed(fpr, count)
    if allowed >= count:
        return np.ones(positives.shape[:-1])
    threshold = np.sort(negatives, axis=-1)[..., count - 1 - allowed, None]
    return (positives > threshold).mean(axis=-1)


def roc_points(positives: Scores, negatives: Scores) -> list[tuple[float, float]]:
    """The corners of the ROC curve, (false positive rate, true positive rate), from (0, 0) to (1, 1).

    One for each threshold that lets other models pass than the one before; equal scores pass together.
    """
    thresholds = np.unique(np.concatenate([positives, negatives]))[::-1]
    rates = [((negatives >= one).mean(), (positives >= one).mean()) for one in thresholds]
    return [(0.0, 0.0), *((float(false), float(true)) for false, true in rates)]


def _allowed(rate: float, negatives: int) -> int:
    """How many of so many negatives a false positive rate lets pass; 0.29 of 100 are 29."""
    return int(np.floor(rate * negatives + 1e-9))


def aruc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """Area under the robustness-uniqueness curves in [0, 1], higher is better (IPGuard, section 5).

    The mean over thresholds tau = .01, .02, ..., 1 of the smaller of: the share of `positives` (similarities of derived
    models) of at least tau, and the share of `negatives` (of independent models) below tau.
    """
    tau_T1 = np.array([hundredth / 100 for hundredth in range(1, 101)])[:, None]  # 0.29, as 29 matches of 100 are
    robustness_T = (np.asarray(positives) >= tau_T1).mean(axis=1)
    uniqueness_T = (np.asarray(negatives) < tau_T1).mean(axis=1)
    return float(np.minimum(robustness_T, uniqueness_T).mean())


@dataclass(frozen=True)
class Intervals:
    """Bootstrap percentile intervals (low, high) of the statistics of one metric."""

    auc: tuple[float, float]
    tpr: tuple[tuple[float, float], ...]


def bootstrap_intervals(
    positives: Scores,
    negatives: Scores,
    rates: Sequence[float] = (),
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Intervals:
    """Of the ROC area and of the true positive rate at each false positive rate; both kinds are resampled separately.

    Every metric of so many models meets the same resamples, which are drawn once: scipy.stats.bootstrap draws anew for
    each, and a sweep of thousands of metrics would take minutes.
    """
    drawn = _resamples(len(positives), len(negatives), draws, seed)
    ascending = np.sort(negatives)
    wins_PN = (np.sign(positives[:, None] - ascending[None, :]) + 1) / 2
    areas_D = ((drawn.positives_DP @ wins_PN) * drawn.negatives_DN).sum(axis=1)
    found_TD = []
    for rate in rates:
        allowed = _allowed(rate, len(negatives))
        if allowed >= len(negatives):
            found_TD.append(np.ones(draws))
            continue
        threshold_D = ascending[drawn.ranks_DN[:, len(negatives) - 1 - allowed]]
        found_TD.append((drawn.positives_DP * (positives > threshold_D[:, None])).sum(axis=1))
    low, high = np.percentile([areas_D, *found_TD], [50 * (1 - level), 50 * (1 + level)], axis=1)
    auc, *tpr = zip(low.round(12).tolist(), high.round(12).tolist(), strict=True)
    return Intervals(auc=auc, tpr=tuple(tpr))


@dataclass(frozen=True)
class _Resamples:
    """D draws with replacement: which share of a resample each model is; of the negatives also which, in order."""

    positives_DP: Scores
    negatives_DN: Scores
    ranks_DN: NDArray[np.int64]


@lru_cache(maxsize=32)
def _resamples(positives: int, negatives: int, draws: int, seed: int) -> _Resamples:
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(count, size=(draws, count)) for count in (positives, negatives)]
    shares = [
        np.stack([np.bincount(row, minlength=row.size) for row in indices]) / indices.shape[1] for indices in drawn
    ]
    return _Resamples(shares[0], shares[1], np.sort(drawn[1], axis=1))


def separation(
    positives: ArrayLike, negatives: ArrayLike, metric: Metric, *, draws: int = 1000, seed: int = 0
) -> Separation:
    """Everything a report says about one metric, from the raw scores of derived and of independent models.

    Raises UserError for fewer than two of either, and when a score is not finite.
    """
    derived, independent = oriented(positives, metric.direction), oriented(negatives, metric.direction)
    if min(len(derived), len(independent)) < FEWEST:
        raise UserError(
            f"a ROC needs {FEWEST} derived and {FEWEST} independent models; there are {len(derived)} and "
            f"{len(independent)}"
        )

    one_percent = len(independent) >= MIN_NEGATIVES_FOR_ONE_PERCENT
    unit_similarity = (metric.direction, metric.low, metric.high) == ("similarity", 0.0, 1.0)
    rates = (0.05, 0.01 if one_percent else 0.0)
    intervals = bootstrap_intervals(derived, independent, rates, draws=draws, seed=seed)
    tpr_at_5, tpr_strict = (float(tpr_at_fpr(derived, independent, rate)) for rate in rates)
    return Separation(
        positives=len(derived),
        negatives=len(independent),
        auc=float(roc_auc(derived, independent)),
        auc_interval=intervals.auc,
        tpr_at_5=tpr_at_5,
        tpr_at_5_interval=intervals.tpr[0],
        tpr_strict=tpr_strict,
        tpr_strict_interval=intervals.tpr[1],
        strict_level="1% FPR" if one_percent else "0 false positives",
        aruc=aruc(derived, independent) if unit_similarity else None,
    )
