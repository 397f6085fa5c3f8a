"""Pruning's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rnet.attacks.config import LabelledConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PruneConfig(LabelledConfig):
    """Defaults are those of the released code's CIFAR10 runs, which prune 0.2, 0.5 and 0.8."""

    baseline: ClassVar[bool] = True
    name: str = "prune"
    """The attack's name."""
    rate: float = 0.5
    """Share of the weights that become 0: those of least magnitude, of all layers together."""
    linear: bool = False
    """Whether linear layers are pruned too, and not convolutions alone."""

    def check(self) -> None:
        """Also refuses a rate outside (0, 1)."""
        super().check()
        if not 0 < self.rate < 1:
            raise UserError(f"attack.rate={self.rate} must be above 0 and below 1")
