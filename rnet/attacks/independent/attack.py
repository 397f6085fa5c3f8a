"""The negatives: models trained from scratch as the victim was, with another seed or on half of the data."""

from __future__ import annotations

import torch

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.cost import cost, training_passes
from rnet.attacks.independent.config import IndependentConfig
from rnet.data.images import Dataset, Part
from rnet.draws import derive_seed
from rnet.training.victim import train_classifier


class Independent(Attack):
    """Not an attack: what a defence must leave alone."""

    config: IndependentConfig

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """A freshly initialised model trained with the victim's recipe."""
        seed = derive_seed(context.seed, "independent")
        model = context.build(derive_seed(seed, "model"))
        part = self.portion(dataset.train)
        passes = training_passes(model, part.pixels(torch.arange(1)), list(model.parameters()))
        steps = train_classifier(context.run, model, part, context.train, flip=dataset.flip, seed=seed)
        spent = cost(
            training_samples=len(part), iterations=steps, passes=passes.times(steps * context.train.batch_size)
        )  # fmt: skip
        return Suspect(model=model, derived=False, cost=spent)

    def portion(self, part: Part) -> Part:
        """The images this model is trained on."""
        if self.config.portion == "all":
            return part
        order_N = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        half = len(part) // 2
        return part.subset(order_N[:half] if self.config.portion == "first_half" else order_N[half:])
