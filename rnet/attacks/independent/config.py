"""An independent model's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.attacks.config import AttackConfig
from rnet.config.checks import check_names
from rnet.errors import UserError
from rnet.models.config import ModelConfig
from rnet.models.registry import MODELS

HALVES = ("first_half", "second_half")


@dataclass(frozen=True, kw_only=True)
class IndependentConfig(AttackConfig):
    """An innocent model, as a rule of the victim's architecture."""

    name: str = "independent"
    """The attack's name."""
    seed: int | None = None
    """Initial weights and order; None takes the run's seed. Never the victim's own weights, whatever the number."""
    portion: str = "all"
    """Which images: all of the victim's training images, first_half or second_half of them (of a fixed random order),
    or disjoint: the attacker's pool, none of which the victim has seen."""
    model: ModelConfig | None = field(default=None, metadata={"hashed_if_set": True, "registry": MODELS})
    """Its architecture, as in model.*; null for the victim's."""

    @property
    def kind(self) -> str:
        """Which kind of negative it is, as negative_kinds has them."""
        if self.model is not None:
            return "architectures"
        return {"all": "seeds", "disjoint": "disjoint"}.get(self.portion, "halves")

    def check(self) -> None:
        """Raises UserError for a portion that is not known, and for an architecture that comes with weights."""
        check_names("attack.portion", [self.portion], "all", *HALVES, "disjoint")
        if self.model is not None:
            if self.model.weights is not None:
                raise UserError("attack.model.weights has no place in attack=independent, which trains; take it out")
            self.model.check()
