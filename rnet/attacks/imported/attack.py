"""A given suspect, as it is: weights from a file, or a function that is asked. Nothing is attacked."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.imported.config import ImportConfig
from rnet.attacks.imported.origin import of_a_suspect
from rnet.attacks.imported.registry import FUNCTIONS
from rnet.data.images import Dataset
from rnet.errors import UserError
from rnet.models.black_box import BlackBox
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.importing import import_weights

logger = logging.getLogger(__name__)

CLOSE = 1e-3
"""How far two answers to the same image may be apart and count as the same: devices round."""


class Import(Attack):
    """A suspect of which nothing is known but what it answers, or its weights."""

    config: ImportConfig
    trains = False

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Refuses a file that does not fit, and a function that is not there."""
        if self.config.function is not None:
            FUNCTIONS.load(self.config.function)
        else:
            self._imported(blueprint)

    def architecture(self, victim: ModelConfig) -> ModelConfig:
        """The one given; without one the victim's."""
        return self.config.model or victim

    def classes(self, dataset: Dataset) -> int:
        """As many as are given, or as the data set has."""
        return self.config.num_classes or dataset.num_classes

    def black_box(self, dataset: Dataset, kind: str | None = None, num_classes: int | None = None) -> BlackBox:
        """The function, to be asked. kind, num_classes: of its answers, where they are known from before."""
        assert self.config.function is not None
        known = num_classes or self.config.num_classes
        return BlackBox(
            FUNCTIONS.load(self.config.function), f"attack.function={self.config.function!r}",
            num_classes=known or dataset.num_classes, classes_known=known is not None,
            kind=kind or self.config.answers, batch_size=self.config.batch_size,
        )  # fmt: skip

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """The suspect. A function is asked about the same images twice: what does it answer, and does it waver?"""
        if self.config.function is None:
            model = context.build(0)
            if done := self._imported(model):
                context.run.say(f"{self.config.weights}: {done}")
            return Suspect(model=model.eval(), derived=self.config.derived)
        asked = self.black_box(dataset)
        x_BCHW = dataset.test.pixels(torch.arange(min(len(dataset.test), self.config.batch_size)))
        first, second = asked(x_BCHW), asked(x_BCHW)
        context.run.say(f"{asked.place} answers with {str(asked.kind).replace('_', ' ')}")
        if wavering := _differing(first, second):
            logger.warning(
                "%s answers %d of %d images otherwise when it is asked again: its scores are those of one try",
                asked.place, wavering, len(x_BCHW),
            )  # fmt: skip
        return Suspect(model=asked, derived=self.config.derived)

    def _imported(self, model: Classifier) -> str:
        assert self.config.weights is not None
        try:
            return import_weights(model, self.config.weights, self.config.weights_key)
        except UserError as error:
            text = of_a_suspect(str(error))
            remedy = "; a suspect with other classes is imported with attack.num_classes" if "classes" in text else ""
            raise UserError(f"{text}{remedy}") from None


def _differing(first_BK: Tensor, second_BK: Tensor) -> int:
    """How many images have got two different answers."""
    same_B = torch.isclose(first_BK, second_BK, rtol=CLOSE, atol=CLOSE).all(dim=1)
    return int((~same_B).sum())
