"""Distillation's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rnet.attacks.config import SubstituteConfig
from rnet.config.checks import check_positive
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DistillConfig(SubstituteConfig):
    """Defaults are those of the released code's CIFAR10 runs, which distil on the victim's training images."""

    baseline: ClassVar[bool] = True
    name: str = "distill"
    """The attack's name."""
    temperature: float = 1.0
    """T of the distillation term."""
    alpha: float = 0.5
    """Weight of the distillation term, which also carries T^2; 1 - alpha is that of the victim's labels."""
    iterations: int = 1000
    """Optimizer steps."""
    weight_decay: float = 5e-3
    """On all trained parameters."""

    def check(self) -> None:
        """Also refuses a temperature and a weight out of range."""
        super().check()
        check_positive("attack", self, "temperature")
        if not 0 < self.alpha <= 1:
            raise UserError(f"attack.alpha={self.alpha} must be above 0 and at most 1")
