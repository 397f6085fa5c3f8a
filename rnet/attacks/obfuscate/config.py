"""Obfuscation's settings. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rnet.attacks.config import AttackConfig
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ObfuscateConfig(AttackConfig):
    """Nothing is trained and no image is needed: the suspect computes the victim's logits from other activations."""

    name: str = "obfuscate"
    """The attack's name."""
    seed: int | None = None
    """The permutations and factors; None takes the run's seed."""
    permute: bool = True
    """Permutes the channels of each layer, attention heads and hidden units, with the weights that read them."""
    rescale: float = 1.0
    """Each channel that passes only through ReLU and other positively homogeneous operations is multiplied by a factor
    between 1 / rescale and rescale, and the weights that read it are divided by it; 1 leaves them alone."""

    def check(self) -> None:
        """Raises UserError for a factor below 1, and where there is nothing to do."""
        if not 1 <= self.rescale < math.inf:
            raise UserError(f"attack.rescale={self.rescale} must be 1 or more, and finite")
        if not self.permute and self.rescale == 1:
            raise UserError("attack.permute=false and attack.rescale=1 change nothing; set one of them")
