"""Fine-tuning's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rnet.attacks.config import SubstituteConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(SubstituteConfig):
    """SGD on cross-entropy with the victim's labels."""

    baseline: ClassVar[bool] = True
    name: str = "finetune"
    """The attack's name."""
    fraction: float = 1.0
    """Only the last int(fraction * number) parameter tensors are trained."""

    def check(self) -> None:
        """Also refuses a fraction outside (0, 1]."""
        super().check()
        check_fraction(self.fraction)


def check_fraction(fraction: float) -> None:
    """Raises UserError unless the share of trained tensors lies in (0, 1]."""
    if not 0 < fraction <= 1:
        raise UserError(f"attack.fraction={fraction} must be above 0 and at most 1")
