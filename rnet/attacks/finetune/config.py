"""Fine-tuning's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.attacks.config import AttackConfig
from rnet.config.checks import check_positive
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(AttackConfig):
    """SGD on cross-entropy with the victim's labels."""

    name: str = "finetune"
    """The attack's name."""
    seed: int | None = None
    """Which images, in which order; None takes the run's seed."""
    substitute_size: int = 400
    """How many unlabelled images the attacker has."""
    iterations: int = 500
    """Optimizer steps."""
    batch_size: int = 64
    """Global batch size."""
    learning_rate: float = 0.01
    """Start of the cosine schedule, which ends at 0."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    """On all trained parameters."""
    clip_norm: float | None = None
    """Largest l2 norm of all gradients together; None does not clip."""
    fraction: float = 1.0
    """Only the last int(fraction * number) parameter tensors are trained."""

    def check(self) -> None:
        """Raises UserError for a size or rate that is not above 0, and for a fraction outside (0, 1]."""
        check_positive("attack", self, "iterations", "batch_size", "learning_rate", "substitute_size")
        if not 0 < self.fraction <= 1:
            raise UserError(f"attack.fraction={self.fraction} must be above 0 and at most 1")
