"""Fine-tuning: the victim trained on, with its own labels of the attacker's images; all of it or its last tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from rnet.attacks.finetune.config import FineTuneConfig
from rnet.attacks.substitutes import Objective, SubstituteAttack, Training, agreement
from rnet.data.batches import Batch
from rnet.errors import UserError

if TYPE_CHECKING:
    from rnet.engines.base import LossOf


class FineTune(SubstituteAttack):
    """The simplest removal attack, and the one every defence claims to survive."""

    config: FineTuneConfig

    def trained(self, surrogate: nn.Module) -> list[nn.Parameter]:
        """The last int(fraction * number) parameter tensors."""
        parameters = list(surrogate.parameters())
        count = int(self.config.fraction * len(parameters))
        if count == 0:
            raise UserError(
                f"attack.fraction={self.config.fraction} of {len(parameters)} parameter tensors trains none; "
                f"use at least {1 / len(parameters):.3f}"
            )
        return parameters[-count:]

    def objective(self, training: Training) -> Objective:
        """Cross-entropy with the victim's labels."""

        def of_batch(t: int, batch: Batch, y_B: Tensor) -> LossOf:
            def loss(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
                logits_BK = training.engine.forward(batch.x_BCHW[rows]).float()
                return F.cross_entropy(logits_BK, y_B[rows]), {"agreement/batch": agreement(logits_BK, y_B[rows])}

            return loss

        return of_batch
