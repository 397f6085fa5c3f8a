"""Knowledge distillation: an untrained network of the victim's architecture learns the victim's outputs.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015: the divergence is summed over classes. The released
code of Yao et al. 2023 ("steal") averages it over classes: its alpha is ours times the number of classes. Shapes: N
images, B batch, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from rnet.attacks.distill.config import DistillConfig
from rnet.attacks.substitutes import SubstituteAttack, agreement
from rnet.attacks.training import Objective, Training
from rnet.data.batches import Batch
from rnet.kernels.distillation_loss import distillation_loss

if TYPE_CHECKING:
    from rnet.engines.base import LossOf


class Distill(SubstituteAttack):
    """Takes nothing of the victim but its logits."""

    config: DistillConfig
    fresh = True

    def answers(self, logits_BK: Tensor) -> Tensor:
        """The victim's logits themselves."""
        return logits_BK.float()

    def objective(self, training: Training) -> Objective:
        """alpha * T^2 * KL(softmax(V / T) || softmax(S / T)) + (1 - alpha) * CE(S, argmax V)."""
        config = self.config

        def of_batch(t: int, batch: Batch, victim_BK: Tensor) -> LossOf:
            y_B = victim_BK.argmax(1)

            def loss(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
                logits_BK = training.engine.forward(batch.x_BCHW[rows])
                total, parts = distillation_loss(
                    logits_BK, victim_BK[rows], y_B[rows], temperature=config.temperature, alpha=config.alpha,
                    gamma=1 - config.alpha, soften_target=True,
                )  # fmt: skip
                losses = {f"loss/{name}": value for name, value in parts.items()}
                return total, {**losses, "fidelity/agreement_batch": agreement(logits_BK, y_B[rows])}

            return loss

        return of_batch
