"""What a score of a defence means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rnet.models.access import Access


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a score means. `direction`: a similarity is high, a distance low, for a derived model.

    name: within the defence, e.g. "matching_rate". low, high: the closed range of possible values. access: the least
    that it needs of a suspect: labels, probabilities, logits, or weights in the victim's architecture (white_box).
    perfect: the victim's own score.
    """

    name: str
    direction: Literal["similarity", "distance"]
    low: float
    high: float
    access: Access = "logits"
    perfect: float = 0.0
