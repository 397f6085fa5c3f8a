"""What a score of a defence means, and the scale on which scores of independent models are roughly normal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rnet.errors import UserError
from rnet.models.access import Access

Scale = Literal["linear", "log", "logit"]

FAR_END = 1e-3
"""Scores nearer to the far end of a range than half of this share of it count alike: that far off nothing is told."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a score means. `direction`: a similarity is high, a distance low, for a derived model.

    name: within the defence, e.g. "matching_rate". low, high: the closed range of possible values. access: the least
    that it needs of a suspect: labels, probabilities, logits, or weights in the victim's architecture (white_box).
    perfect: the victim's own score.

    scale: where scores of independent models are roughly normal: the logarithm of the distance from the derived end of
    the range ("log"), its logit if the range ends on both sides ("logit"), or the score itself ("linear"). None takes
    what the range allows. share_of: where the fingerprint's metadata, or else the settings, say of how many queries the
    score is a share; resolution: one such query, 0 for other scores.
    """

    name: str
    direction: Literal["similarity", "distance"]
    low: float
    high: float
    access: Access = "logits"
    perfect: float = 0.0
    scale: Scale | None = None
    share_of: str | None = None
    resolution: float = 0.0

    def __post_init__(self) -> None:
        ends = (math.isfinite(self._best), math.isfinite(self.high - self.low))
        if (self.scale == "log" and not ends[0]) or (self.scale == "logit" and not ends[1]):
            raise UserError(
                f"metric {self.name} from {self.low} to {self.high} has no scale={self.scale}; leave the scale out"
            )

    @property
    def used_scale(self) -> Scale:
        """The scale of its bounds: what is set, or what the range allows."""
        if self.scale is not None:
            return self.scale
        return "logit" if math.isfinite(self.high - self.low) else "log" if math.isfinite(self._best) else "linear"

    @property
    def _best(self) -> float:
        """The end of the range where derived models are."""
        return self.high if self.direction == "similarity" else self.low

    def beyond(self, score: float, bound: float) -> bool:
        """Whether the score is strictly on the derived side of the bound."""
        return score > bound if self.direction == "similarity" else score < bound

    def at_best(self, score: float) -> bool:
        """Whether no score can be more derived-looking."""
        return not self.beyond(self._best, score)

    def off_far_end(self, score: float) -> float:
        """The score; at the far end of the range so far inside it as scores count alike there."""
        if score != self._worst:
            return score
        return score + self._far if self.direction == "similarity" else score - self._far

    def evidence(self, score: float) -> float:
        """The score on its scale, turned so that more is more derived-looking; infinite at a continuous derived end.

        With the distance d from the derived end of a range of width R: -log(d), or -log((d + r/2) / (R - d + f/2)),
        r the resolution (a share of k in n becomes (k + 1/2) / (n + 1)) and f the larger of r and FAR_END * R.
        """
        if self.used_scale == "linear":
            return score if self.direction == "similarity" else -score
        near = abs(self._best - score) + self.resolution / 2
        if near <= 0:
            return math.inf
        if self.used_scale == "log":
            return -math.log(near)
        return math.log(abs(self._worst - score) + self._far) - math.log(near)

    def score_at(self, evidence: float) -> float | None:
        """The score with such evidence; None if it is not inside the open range."""
        if self.used_scale == "linear":
            score = evidence if self.direction == "similarity" else -evidence
        else:
            score = self._best + self.distance_at(evidence) * (-1 if self.direction == "similarity" else 1)
        return score if self.low < score < self.high else None

    def distance_at(self, evidence: float) -> float:
        """The distance from the derived end with such evidence, on the scales log and logit; below 0 beyond the end."""
        odds = math.exp(min(-evidence, 700.0))
        if self.used_scale == "log":
            return odds - self.resolution / 2
        return (odds * (self.high - self.low + self._far) - self.resolution / 2) / (1 + odds)

    @property
    def _worst(self) -> float:
        return self.low if self.direction == "similarity" else self.high

    @property
    def _far(self) -> float:
        return max(self.resolution, FAR_END * (self.high - self.low)) / 2


def share_of_labels(name: str) -> Metric:
    """A similarity: on which share of the fingerprint's queries a suspect gives the victim's label."""
    return Metric(
        name=name, direction="similarity", low=0.0, high=1.0, access="labels", perfect=1.0, share_of="num_queries"
    )
