"""An independent model's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.attacks.config import AttackConfig
from rnet.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class IndependentConfig(AttackConfig):
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
