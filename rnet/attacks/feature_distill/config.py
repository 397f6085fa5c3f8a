"""Feature distillation's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rnet.attacks.config import SubstituteConfig
from rnet.config.checks import check_positive


@dataclass(frozen=True, kw_only=True)
class FeatureDistillConfig(SubstituteConfig):
    """Defaults are those of the released code's CIFAR10 runs, which take the victim's training images and two cuts."""

    baseline: ClassVar[bool] = True
    name: str = "feature_distill"
    """The attack's name."""
    layer: str | None = None
    """Where features are compared. None takes the architecture's usual cut."""
    beta: float = 0.1
    """Weight of the mean squared error between its features and the victim's; that of the victim's labels is 1."""
    iterations: int = 1000
    """Optimizer steps."""
    learning_rate: float = 1e-3
    """Start of the cosine schedule, which ends at 0."""
    momentum: float = 0.8
    """Of SGD."""

    def check(self) -> None:
        """Also refuses a weight that is not above 0."""
        super().check()
        check_positive("attack", self, "beta")
