"""The negatives: models trained as the victim was, with another seed, on other images, or of another architecture."""

from __future__ import annotations

import torch

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.cost import cost, training_passes
from rnet.attacks.independent.config import IndependentConfig
from rnet.data.images import Dataset, Part
from rnet.draws import derive_seed
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.training.victim import train_classifier


class Independent(Attack):
    """Not an attack: what a defence must leave alone."""

    config: IndependentConfig

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Refuses a portion without images."""
        if not len(self.portion(dataset)):
            raise UserError(
                f"attack.portion={self.config.portion} holds no image; raise "
                + ("dataset.substitute_pool" if self.config.portion == "disjoint" else "dataset.train_size")
            )

    def architecture(self, victim: ModelConfig) -> ModelConfig:
        """The one given; without one the victim's."""
        return self.config.model or victim

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """A freshly initialised model trained with the victim's recipe."""
        seed = derive_seed(context.seed, "independent")
        model = context.build(derive_seed(seed, "model"))
        part = self.portion(dataset)
        passes = training_passes(model, part.pixels(torch.arange(1)), list(model.parameters()))
        labelled = dataset.labelled_part(part)
        steps = train_classifier(context.run, model, labelled, context.train, flip=dataset.flip, seed=seed)
        spent = cost(
            training_samples=len(part), iterations=steps, passes=passes.times(steps * context.train.batch_size)
        )  # fmt: skip
        about = {"kind": self.config.kind, "portion": self.config.portion, "images": len(part)}
        return Suspect(model=model, derived=False, cost=spent, about={"independent": about})

    def portion(self, dataset: Dataset) -> Part:
        """The images this model is trained on."""
        part = dataset.train
        if self.config.portion == "all":
            return part
        if self.config.portion == "disjoint":
            return dataset.substitute
        order_N = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        half = len(part) // 2
        return part.subset(order_N[:half] if self.config.portion == "first_half" else order_N[half:])
