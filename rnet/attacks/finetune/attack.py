"""Fine-tuning: the victim trained on, with its own labels of the attacker's images; all of it or its last tensors."""

from __future__ import annotations

from torch import nn

from rnet.attacks.finetune.config import FineTuneConfig
from rnet.attacks.substitutes import SubstituteAttack, label_loss
from rnet.attacks.training import Objective, Training
from rnet.errors import UserError


class FineTune(SubstituteAttack):
    """The simplest removal attack, and the one every defence claims to survive."""

    config: FineTuneConfig

    def trained(self, surrogate: nn.Module) -> list[nn.Parameter]:
        """The last int(fraction * number) parameter tensors."""
        return last_share(surrogate, self.config.fraction)

    def objective(self, training: Training) -> Objective:
        """Cross-entropy with the victim's labels."""
        return label_loss(training)


def last_share(surrogate: nn.Module, fraction: float) -> list[nn.Parameter]:
    """The last int(fraction * number) parameter tensors. Raises UserError where that is none."""
    parameters = list(surrogate.parameters())
    count = int(fraction * len(parameters))
    if count == 0:
        raise UserError(
            f"attack.fraction={fraction} of {len(parameters)} parameter tensors trains none; "
            f"use at least {1 / len(parameters):.3f}"
        )
    return parameters[-count:]
