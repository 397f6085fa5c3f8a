"""The settings of rescaled logits. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.attacks.config import AttackConfig
from rnet.config.checks import check_positive


@dataclass(frozen=True, kw_only=True)
class RescaleLogitsConfig(AttackConfig):
    """Nothing is trained: the weights and bias of the last layer are divided by the temperature."""

    name: str = "rescale_logits"
    """The attack's name."""
    temperature: float = 4.0
    """What the logits are divided by: above 1 makes the model less certain, below 1 more; no label changes."""

    def check(self) -> None:
        """Raises UserError for a temperature that is not above 0."""
        check_positive("attack", self, "temperature")
