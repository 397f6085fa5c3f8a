"""RemovalNet's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.attacks.config import SubstituteConfig
from rnet.config.checks import check_at_least_0, check_positive
from rnet.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class RemovalNetConfig(SubstituteConfig):
    """Defaults are those of the authors' CIFAR10 runs; configs/attack_preset holds their other datasets'."""

    name: str = "removalnet"
    """The attack's name."""
    layer: str | None = None
    """The cut: the surrogate is tail o head, head ends with this module. None takes the architecture's usual cut."""
    iterations: int = 1000
    """Upper-level (optimizer) steps."""
    batch_size: int = 128
    """Global batch size."""
    temperature: float = 20.0
    """T of the distillation term."""
    alpha: float = 0.2
    """Weight of the distillation term, which also carries T^2; 0 leaves the logits level out, work and all."""
    beta: float = 2.0
    """Weight of the mean squared error between features and their latent target; 0 leaves the latent level out."""
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
    latent_start: str = field(default="surrogate", metadata={"hashed_if_set": True})
    """Whose features the latent target starts from: surrogate (as published: the target runs ahead of the features and
    can carry them to infinity) or victim (the frozen one's: the features stay near them)."""
    learning_rate: float = 8e-3
    """Start of the cosine schedule, which is cut at two thirds of its period (ends at a quarter of the start)."""

    def check(self) -> None:
        """Also refuses a temperature, a share and steps out of range, and a target or distance not known."""
        super().check()
        check_positive("attack", self, "temperature")
        check_at_least_0("attack", self, "alpha", "beta", "gamma")
        if not self.alpha and not self.beta and not self.gamma:
            raise UserError(
                "attack.alpha=0, attack.beta=0 and attack.gamma=0 leave nothing to train on; set one of them"
            )
        if not self.beta and self.latent_start != "surrogate":
            raise UserError(f"attack.latent_start={self.latent_start} has no effect with attack.beta=0; take it out")
        if not 0 < self.rho <= 1:
            raise UserError(f"attack.rho={self.rho} must be above 0 and at most 1")
        if self.num_poison_steps < 0:
            raise UserError(f"attack.num_poison_steps={self.num_poison_steps} must be 0 or more")
        for key, value, valid in (
            ("target", self.target, ("official", "logits", "probs")),
            ("distance", self.distance, ("l2", "cosine")),
            ("latent_start", self.latent_start, ("surrogate", "victim")),
        ):
            if value not in valid:
                raise unknown_name(f"attack.{key}", value, valid)
