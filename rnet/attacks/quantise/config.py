"""Quantisation's settings. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.attacks.config import AttackConfig
from rnet.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig(AttackConfig):
    """Nothing is trained and no image is needed. The suspect holds the quantised weights as floats."""

    name: str = "quantise"
    """The attack's name."""
    weights: str = "int8"
    """The type of the weights: int8 (each output channel on a symmetric grid of its own), fp16 or bf16 (all floating
    point tensors, batch norm statistics included). Activations stay float32."""

    def check(self) -> None:
        """Raises UserError for a type that is not known."""
        if self.weights not in (valid := ("int8", "fp16", "bf16")):
            raise unknown_name("attack.weights", self.weights, valid)
