"""The contract of an ownership defence: extract once per victim, verify per suspect.

Models take float pixels (B, C, H, W) in [0, 1] and return logits (B, K); they are in eval mode whenever a defence sees
them and are never written to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from rnet.data.images import Dataset


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a score means. `direction`: a similarity is high, a distance low, for a derived model.

    name: within the defence, e.g. "matching_rate". low, high: the closed range of possible values. access: whether
    the defender needs logits only ("black_box") or activations too ("white_box"). perfect: the victim's own score.
    """

    name: str
    direction: Literal["similarity", "distance"]
    low: float
    high: float
    access: Literal["black_box", "white_box"] = "black_box"
    perfect: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a defence keeps of a victim: tensors (stored as safetensors) and JSON-able metadata. CPU tensors."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)


class Defense(ABC):
    """An ownership test. Hyperparameters in the constructor (a config dataclass), data in the calls."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]

    def __init__(self, config: Any) -> None:
        config.check()
        self.config = config

    @abstractmethod
    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """The victim's fingerprint, a function of the victim, its data and the seed; made on the victim's device."""

    @abstractmethod
    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """One score per metric name, for one suspect. The suspect may live on any device."""
