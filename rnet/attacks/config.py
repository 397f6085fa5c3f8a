"""The attacks' hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rnet.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class IdentityConfig:
    """Nothing to set: the suspect is an exact copy of the victim."""

    name: str = "identity"
    """The attack's name."""

    def check(self) -> None:
        """There is nothing to refuse."""


@dataclass(frozen=True, kw_only=True)
class IndependentConfig:
    """An innocent model of the victim's architecture."""

    name: str = "independent"
    """The attack's name."""
    seed: int | None = None
    """Initial weights and order; None takes the run's seed. Never the victim's own weights, whatever the number."""
    portion: str = "all"
    """Which of the victim's training images: all, first_half or second_half (of a fixed random order)."""

    def check(self) -> None:
        """Raises UserError for a portion that is not known."""
        if self.portion not in (portions := ("all", "first_half", "second_half")):
            raise unknown_name("attack.portion", self.portion, portions)


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
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
        _check_positive(self, "iterations", "batch_size", "learning_rate", "substitute_size")
        if not 0 < self.fraction <= 1:
            raise UserError(f"attack.fraction={self.fraction} must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class RemovalNetConfig:
    """Defaults are those of the authors' CIFAR10 runs; configs/attack_preset holds their other datasets'."""

    name: str = "removalnet"
    """The attack's name."""
    seed: int | None = None
    """Subset, order and noise; None takes the run's seed."""
    layer: str | None = None
    """The cut: the surrogate is tail o head, head ends with this module. None takes the architecture's usual cut."""
    substitute_size: int = 400
    """How many unlabelled images the attacker has."""
    iterations: int = 1000
    """Upper-level (optimizer) steps."""
    batch_size: int = 128
    """Global batch size."""
    temperature: float = 20.0
    """T of the distillation term."""
    alpha: float = 0.2
    """Weight of the distillation term, which also carries T^2."""
    beta: float = 2.0
    """Weight of the mean squared error between features and their latent target."""
    gamma: float = 0.6
    """Weight of the cross-entropy with the victim's labels."""
    target: str = "official"
    """The logits-level target: official, logits or probs."""
    distance: str = "l2"
    """The latent distance that is driven up: l2 (one norm over the batch) or cosine."""
    rho: float = 0.02
    """Share of channels that each shuffle permutes among themselves, rounded up."""
    num_poison_steps: int = 20
    """Latent-level steps per batch."""
    learning_rate: float = 8e-3
    """Start of the cosine schedule, which is cut at two thirds of its period (ends at a quarter of the start)."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    """On all parameters."""
    clip_norm: float | None = None
    """Largest l2 norm of all gradients together; None does not clip."""

    def check(self) -> None:
        """Raises UserError for sizes, rates and shares out of range, and for a target or distance not known."""
        _check_positive(self, "substitute_size", "iterations", "batch_size", "temperature", "learning_rate")
        if not 0 < self.rho <= 1:
            raise UserError(f"attack.rho={self.rho} must be above 0 and at most 1")
        if self.num_poison_steps < 0:
            raise UserError(f"attack.num_poison_steps={self.num_poison_steps} must be 0 or more")
        for key, value, valid in (
            ("target", self.target, ("official", "logits", "probs")),
            ("distance", self.distance, ("l2", "cosine")),
        ):
            if value not in valid:
                raise unknown_name(f"attack.{key}", value, valid)


def _check_positive(config: Any, *keys: str) -> None:
    for key in keys:
        if not getattr(config, key) > 0:
            raise UserError(f"attack.{key}={getattr(config, key)} must be above 0")
