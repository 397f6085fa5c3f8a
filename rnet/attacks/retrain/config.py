"""Retraining's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rnet.attacks.config import LabelledConfig
from rnet.config.checks import check_at_least_1, check_names


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(LabelledConfig):
    """Defaults are those of the released code's CIFAR10 runs."""

    baseline: ClassVar[bool] = True
    name: str = "retrain"
    """The attack's name."""
    layers: int = 1
    """How many of the last linear layers are initialised anew."""
    trained: str = "all"
    """What is trained then: all, or layers (only those that are new)."""

    def check(self) -> None:
        """Also refuses no layer, and what is neither all nor layers."""
        super().check()
        check_at_least_1("attack", self, "layers")
        check_names("attack.trained", [self.trained], "all", "layers")
