"""Feature distillation: a copy of the victim trained on while its features stay near the victim's.

Source: the released code of Yao et al. 2023 ("distill"). Shapes: N images, B batch, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.attacks.cost import Passes, training_passes
from rnet.attacks.feature_distill.config import FeatureDistillConfig
from rnet.attacks.substitutes import SubstituteAttack, agreement, cut_layer
from rnet.attacks.training import Objective, Training
from rnet.cutting.split import SplitModel
from rnet.data.batches import Batch
from rnet.rewrites.modes import frozen_eval
from rnet.training.flops import count_flops

if TYPE_CHECKING:
    from rnet.engines.base import LossOf


class FeatureDistill(SubstituteAttack):
    """Needs the victim's weights: it compares activations with those of a frozen copy."""

    config: FeatureDistillConfig
    keeps_victim = True

    def module(self, surrogate: nn.Module, default_layer: str | None) -> SplitModel:
        """The surrogate cut where features are compared."""
        return SplitModel(surrogate, cut_layer(surrogate, self.config.layer, default_layer))

    def objective(self, training: Training) -> Objective:
        """beta * MSE(head of S, head of V) + CE(S, argmax V): the MSE is the mean over all elements."""
        engine, surrogate = training.engine, training.engine.unwrapped
        assert isinstance(surrogate, SplitModel)
        assert training.teacher is not None
        victim, beta = SplitModel(training.teacher, surrogate.layer), self.config.beta

        def of_batch(t: int, batch: Batch, y_B: Tensor) -> LossOf:
            def loss(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
                x_BCHW = batch.x_BCHW[rows]
                with torch.no_grad(), engine.autocast():
                    wanted = victim.head(x_BCHW)
                logits_BK, z = engine.forward(x_BCHW, return_features=True)
                mse, ce = F.mse_loss(z.float(), wanted.float()), F.cross_entropy(logits_BK.float(), y_B[rows])
                parts = {"loss/mse": mse.detach(), "loss/ce": ce.detach()}
                return beta * mse + ce, {**parts, "fidelity/agreement_batch": agreement(logits_BK, y_B[rows])}

            return loss

        return of_batch

    def passes(self, module: nn.Module, x_1CHW: Tensor, trained: list[nn.Parameter]) -> Passes:
        """Also one pass through the victim's head."""
        assert isinstance(module, SplitModel)
        with frozen_eval(module):
            head = count_flops(lambda: module.head(x_1CHW))
        return training_passes(module, x_1CHW, trained) + Passes(forward=1, flops=head)
