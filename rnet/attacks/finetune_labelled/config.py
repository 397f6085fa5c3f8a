"""Labelled fine-tuning's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rnet.attacks.config import LabelledConfig
from rnet.attacks.finetune.config import check_fraction


@dataclass(frozen=True, kw_only=True)
class FineTuneLabelledConfig(LabelledConfig):
    """Defaults are those of the released code's CIFAR10 runs."""

    baseline: ClassVar[bool] = True
    name: str = "finetune_labelled"
    """The attack's name."""
    fraction: float = 1.0
    """Only the last int(fraction * number) parameter tensors are trained."""

    def check(self) -> None:
        """Also refuses a fraction outside (0, 1]."""
        super().check()
        check_fraction(self.fraction)
