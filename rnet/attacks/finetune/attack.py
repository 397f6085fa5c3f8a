"""Fine-tuning: the victim trained on, with its own labels of the attacker's images; all of it or its last tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.attacks.base import Attack, AttackContext, Suspect, label_table
from rnet.attacks.finetune.config import FineTuneConfig
from rnet.data.images import Dataset
from rnet.data.splits import substitute_subset
from rnet.draws import derive_seed
from rnet.errors import UserError
from rnet.models.classifier import Classifier


class FineTune(Attack):
    """The simplest removal attack, and the one every defence claims to survive."""

    name = "finetune"
    config: FineTuneConfig

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Refuses a substitute set larger than the pool, and a fraction that trains nothing."""
        substitute_subset(dataset, self.config.substitute_size, seed=0)
        self.trained_parameters(blueprint)

    def trained_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The last int(fraction * number) parameter tensors."""
        parameters = list(model.parameters())
        count = int(self.config.fraction * len(parameters))
        if count == 0:
            raise UserError(
                f"attack.fraction={self.config.fraction} of {len(parameters)} parameter tensors trains none; "
                f"use at least {1 / len(parameters):.3f}"
            )
        return parameters[-count:]

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """A fine-tuned copy of the victim."""
        config, run, seed = self.config, context.run, derive_seed(context.seed, "finetune")
        part = substitute_subset(dataset, config.substitute_size, seed=derive_seed(seed, "substitute"))
        labels_N2 = label_table(context.victim_forward, part, run.device)
        surrogate = context.copy_of_victim()
        for parameter in surrogate.parameters():
            parameter.requires_grad_(False)
        parameters = self.trained_parameters(surrogate)
        for parameter in parameters:
            parameter.requires_grad_(True)
        batches = run.batches(part, config.batch_size, derive_seed(seed, "batches"), flip=dataset.flip)
        optimizer = torch.optim.SGD(
            parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.iterations)
        engine = run.engine(surrogate, optimizer, scheduler, clip_norm=config.clip_norm)

        def step(t: int) -> dict[str, Tensor]:
            batch = batches(t)
            y_B = labels_N2[batch.indices_B.to(run.device), batch.flipped_B.long()]
            surrogate.train()

            def loss(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
                logits_BK = engine.forward(batch.x_BCHW[rows]).float()
                agreement = (logits_BK.detach().argmax(1) == y_B[rows]).float().mean()
                return F.cross_entropy(logits_BK, y_B[rows]), {"agreement/batch": agreement}

            return engine.descend(loss, len(y_B))

        run.optimise(engine, num_steps=config.iterations, step=step, seed=derive_seed(seed, "global"))
        cost = {"substitute_samples": len(part), "iterations": config.iterations, "victim_queries": labels_N2.numel()}
        return Suspect(model=surrogate, derived=True, cost=cost)
