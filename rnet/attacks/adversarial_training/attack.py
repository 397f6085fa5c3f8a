"""Adversarial training: a copy of the victim is trained on the worst images near its own.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018: each image is replaced by one
that a projected gradient ascent of its loss finds, from a random start. The search sees the network in eval mode, and
moves no batch norm statistic. Shapes: B batch, C channels, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.attacks.adversarial_training.config import AdversarialTrainingConfig
from rnet.attacks.cost import Passes, training_passes
from rnet.attacks.labelled import LabelledAttack
from rnet.attacks.substitutes import agreement
from rnet.attacks.training import Objective, Training
from rnet.data.batches import Batch
from rnet.draws import BatchDraws
from rnet.rewrites.modes import frozen_eval
from rnet.training.flops import count_flops

if TYPE_CHECKING:
    from rnet.engines.base import LossOf
    from rnet.engines.lower_level import Network


class AdversarialTraining(LabelledAttack):
    """Changes what inputs near the images the network is sensitive to: the queries of many defences."""

    config: AdversarialTrainingConfig

    def objective(self, training: Training) -> Objective:
        """Cross-entropy at the images found, with the labels of those they were found from."""
        engine = training.engine
        lower = engine.lower_level(training.example(), training.run.say)

        def search(network: Network, x_BCHW: Tensor, y_B: Tensor, ids_B: Tensor, t: Tensor) -> Tensor:
            return self.worst(network, x_BCHW, y_B, BatchDraws(seed=training.seed, step=t, sample_ids_B=ids_B))

        def of_batch(t: int, batch: Batch, y_B: Tensor) -> LossOf:
            ids_B = batch.stream_ids_B.to(y_B.device, non_blocking=True)
            step = torch.full((), t, dtype=torch.int64, device=y_B.device)
            x_BCHW = lower(search, batch.x_BCHW, y_B, ids_B, step)

            def loss(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
                logits_BK = engine.forward(x_BCHW[rows]).float()
                return F.cross_entropy(logits_BK, y_B[rows]), {
                    "fidelity/agreement_batch": agreement(logits_BK, y_B[rows])
                }

            return loss

        return of_batch

    def worst(self, network: Network, x_BCHW: Tensor, y_B: Tensor, draws: BatchDraws) -> Tensor:
        """Pixels within epsilon of x, and within [0, 1], at which the loss is high."""
        epsilon = self.config.epsilon
        low_BCHW, high_BCHW = (x_BCHW - epsilon).clamp(min=0), (x_BCHW + epsilon).clamp(max=1)
        start_BCHW = x_BCHW + epsilon * (2 * draws.uniform_like(x_BCHW, "adversarial start") - 1)
        found_BCHW = start_BCHW.clamp(low_BCHW, high_BCHW)
        for _ in range(self.config.search_steps):
            gradient_BCHW = network.gradient(_loss, found_BCHW, y_B)
            found_BCHW = (found_BCHW + self.config.step_size * gradient_BCHW.sign()).clamp(low_BCHW, high_BCHW)
        return found_BCHW

    def passes(self, module: nn.Module, x_1CHW: Tensor, trained: list[nn.Parameter]) -> Passes:
        """Also the search: to the pixels and back for each of its steps."""
        with frozen_eval(module):
            leaf = x_1CHW.clone().requires_grad_(True)
            # a clone, because the counter cannot follow gradients into a leaf
            once = count_flops(lambda: torch.autograd.grad(module(leaf.clone()).sum(), leaf))
        search = Passes(forward=1, backward=1, flops=once).times(self.config.search_steps)
        return training_passes(module, x_1CHW, trained) + search


def _loss(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    return F.cross_entropy(logits_BK.float(), y_B, reduction="sum")
