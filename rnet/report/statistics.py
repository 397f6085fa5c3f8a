"""What tables say of a number that several seeds gave: mean, spread, interval and how many there were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev

from scipy.stats import t as student_t

LEVEL = 0.95
"""Of every interval of a mean."""
MIN_MAX_FLOOR = 1e-8
"""Added to the range in the min-max normalisation, as in the RemovalNet paper."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A mean over seeds, and how many. spread: the sample standard deviation; low, high: the mean's 95 % t interval.

    Spread and interval are None for one seed.
    """

    mean: float
    spread: float | None
    low: float | None
    high: float | None
    seeds: int


def summary(values: Iterable[float | None], low: float = -math.inf, high: float = math.inf) -> Summary | None:
    """Of the values that are finite numbers; None if there are none.

    low, high: the range of possible values, outside of which no mean lies: the interval is cut there.
    """
    found = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    mean = fmean(found)
    if len(found) == 1:
        return Summary(mean=mean, spread=None, low=None, high=None, seeds=1)
    spread = stdev(found)
    reach = _quantile(len(found) - 1) * spread / math.sqrt(len(found))
    return Summary(mean=mean, spread=spread, low=max(low, mean - reach), high=min(high, mean + reach), seeds=len(found))


@lru_cache
def _quantile(freedom: int) -> float:
    return float(student_t.ppf((1 + LEVEL) / 2, freedom))


def min_max(values: Sequence[float], direction: str) -> list[float]:
    """Each value normalised over all of them: (d - min) / (max - min + 1e-8), and 1 minus that for a similarity.

    0 looks most derived of them and 1 least, except that equal similarities are all 1.
    """
    lowest, highest = min(values), max(values)
    shares = [(value - lowest) / (highest - lowest + MIN_MAX_FLOOR) for value in values]
    return shares if direction == "distance" else [1 - share for share in shares]


def away(value: float, direction: str, low: float, high: float) -> float | None:
    """How far a score is from the end of its range that looks most derived: d of a distance, 1 - s of a similarity.

    None where that end is infinite, as of the logarithm of a p value.
    """
    end = low if direction == "distance" else high
    return abs(value - end) if math.isfinite(end) else None


def ratio(distance: float | None, middle: float | None) -> float | None:
    """A distance over the median of the baselines' distances; None without them or if it is 0."""
    return distance / middle if distance is not None and middle else None


def flops_at_accuracy(runs: Sequence[tuple[float, float]], accuracy: float) -> tuple[float | None, str]:
    """What reaching an accuracy costs, by runs of several budgets (FLOPs, accuracy), and how that is known.

    "interpolated": linear between two budgets, of which the cheaper one stays below. "at most": the smallest budget
    reaches it already. (None, "not reached") where none does. A run that is worse than a cheaper one does not count.
    """
    before: tuple[float, float] | None = None
    for flops, reached in sorted(runs):
        if reached >= accuracy:
            if before is None:
                return flops, "at most"
            share = (accuracy - before[1]) / (reached - before[1])
            return before[0] + share * (flops - before[0]), "interpolated"
        if before is None or reached > before[1]:
            before = flops, reached
    return None, "not reached"
