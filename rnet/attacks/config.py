"""What the configurations of attacks have in common. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.config.checks import check_positive
from rnet.config.component import ComponentConfig


class AttackConfig(ComponentConfig):
    """Base of every attack's configuration dataclass, which declares as fields what it has of these."""

    seed: int | None = None
    """What its randomness comes from; None takes the run's seed."""
    batch_size: int | None = None
    """Global batch size, which processes share; None if it takes no optimizer steps."""


@dataclass(frozen=True, kw_only=True)
class SubstituteConfig(AttackConfig):
    """Of an attack that trains a copy of the victim by SGD on substitute images, which the victim has labelled."""

    seed: int | None = None
    """Which images, in which order, and noise; None takes the run's seed."""
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

    def check(self) -> None:
        """Raises UserError for a size or rate that is not above 0."""
        check_positive("attack", self, "substitute_size", "iterations", "batch_size", "learning_rate")
