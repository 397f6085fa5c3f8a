"""The baselines of RemovalNet's authors: copies of the victim trained on its labelled training images.

Source: the released code of Yao et al. 2023, attack/finetuner.py, which fine-tunes, retrains and prunes by one loop:
SGD at a rate of .01 * (1 + u) that a cosine brings to 0, no momentum, weight decay on everything and an l2 penalty on
linear layers; its gradient, beta * w, is that of weight decay.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from rnet.attacks.config import LabelledConfig
from rnet.attacks.substitutes import SubstituteAttack, Victim, label_loss
from rnet.attacks.training import Objective, Training, TransferSet
from rnet.data.images import Dataset, Part
from rnet.data.substitute.loading import UNKNOWN
from rnet.draws import derive_seed
from rnet.errors import UserError
from rnet.training.loop import Run


class LabelledAttack(SubstituteAttack):
    """Cross-entropy with the true labels of the victim's training images, or with its labels of the attacker's."""

    config: LabelledConfig

    def objective(self, training: Training) -> Objective:
        """Cross-entropy with the labels."""
        return label_loss(training)

    def images(self, dataset: Dataset, seed: int) -> Part:
        """The victim's training images, or unlabelled ones."""
        return dataset.train if self.config.labelled else super().images(dataset, seed)

    def transfer_set(
        self, victim: Victim, part: Part, surrogate: nn.Module, run: Run, *, seed: int, flip: bool
    ) -> TransferSet:
        """All images, with their labels, which a mirrored image shares; or with the victim's."""
        if not self.config.labelled:
            return super().transfer_set(victim, part, surrogate, run, seed=seed, flip=flip)
        if bool((part.labels_N == UNKNOWN).any()):
            raise UserError(f"attack={self.name} trains on true labels; give labels_N, or set attack.labelled=false")
        labels_N2 = part.labels_N.to(run.device).unsqueeze(1).expand(-1, 2)
        return TransferSet(part=part, answers_NM=labels_N2, victim_queries=0, labelled=True)

    @property
    def asks(self) -> bool:
        """Only without labels."""
        return not self.config.labelled

    def optimizer(self, surrogate: nn.Module, trained: list[nn.Parameter], seed: int) -> Optimizer:
        """SGD with two weight decays, that of linear layers and that of all others."""
        config = self.config
        linear = {id(p) for module in linear_layers(surrogate) for p in module.parameters(recurse=False)}
        groups = [
            {"params": [p for p in trained if (id(p) in linear) == is_linear], "weight_decay": decay}
            for is_linear, decay in ((False, config.weight_decay), (True, config.weight_decay + config.linear_decay))
        ]
        return torch.optim.SGD(
            [group for group in groups if group["params"]], lr=self.learning_rate(seed), momentum=config.momentum
        )

    def learning_rate(self, seed: int) -> float:
        """The rate at the first step."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "learning rate"))
        u = torch.rand((), generator=generator, dtype=torch.float64).item() if self.config.random_rate else 0.0
        return self.config.learning_rate * (1 + u)


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers, in the order in which the model holds them: as a rule that of its forward pass."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]
