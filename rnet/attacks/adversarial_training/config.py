"""Adversarial training's hyperparameters. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.attacks.config import LabelledConfig
from rnet.config.checks import check_at_least_1, check_positive
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AdversarialTrainingConfig(LabelledConfig):
    """The search is that of Madry et al. for CIFAR10, with ten steps."""

    name: str = "adversarial_training"
    """The attack's name."""
    epsilon: float = 8 / 255
    """How far a pixel in [0, 1] may be moved."""
    step_size: float = 2 / 255
    """How far each step of the search moves pixels."""
    search_steps: int = 10
    """Steps of the search for each batch."""
    batch_size: int = 128
    """Global batch size."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 2e-4
    """On all trained parameters."""
    linear_decay: float = 0.0
    """Weight decay of linear layers, weights and biases, on top of weight_decay."""
    random_rate: bool = False
    """Whether the learning rate is multiplied by 1 + u, with u in [0, 1) drawn with the seed."""

    def check(self) -> None:
        """Also refuses a search that does not move, and one that leaves the range of pixels."""
        super().check()
        check_positive("attack", self, "epsilon", "step_size")
        check_at_least_1("attack", self, "search_steps")
        if self.epsilon > 1:
            raise UserError(f"attack.epsilon={self.epsilon} must be at most 1: pixels lie in [0, 1]")
