"""Rescaled logits: the victim with another certainty and the same labels. A control of defences that compare logits."""

from __future__ import annotations

import torch
from torch import nn

from rnet.attacks.base import Attack, AttackContext, Suspect
from rnet.attacks.cost import cost
from rnet.attacks.rescale_logits.config import RescaleLogitsConfig
from rnet.data.images import Dataset
from rnet.errors import UserError
from rnet.models.classifier import Classifier

_IMAGES = 8


class RescaleLogits(Attack):
    """Divides the last layer by the temperature."""

    config: RescaleLogitsConfig

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Refuses an architecture that does not end with a linear layer or a convolution."""
        self.change(blueprint.eval(), dataset.substitute.pixels(torch.arange(min(_IMAGES, len(dataset.substitute)))))

    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """A copy of the victim whose logits are divided by the temperature."""
        model = context.copy_of_victim()
        self.change(model, dataset.substitute.pixels(torch.arange(min(_IMAGES, len(dataset.substitute)))))
        return Suspect(model=model, derived=True, cost=cost())

    @torch.no_grad()
    def change(self, model: nn.Module, x_BCHW: torch.Tensor) -> None:
        """Changes a model in place. x_BCHW: images on which it is seen that the logits did what they should."""
        expected_BK = model(x_BCHW) / self.config.temperature
        last = last_layer(model, x_BCHW)
        for parameter in (last.weight, last.bias):
            if parameter is not None:
                parameter.div_(self.config.temperature)
        if not torch.allclose(model(x_BCHW), expected_BK, rtol=1e-4, atol=1e-5):
            raise UserError(
                f"attack {self.name}: the last layer of this architecture is not what makes its logits; "
                "choose another attack"
            )


def last_layer(model: nn.Module, x_BCHW: torch.Tensor) -> nn.Linear | nn.Conv2d:
    """The linear layer or convolution that is called last. Raises UserError where there is none."""
    called: list[nn.Linear | nn.Conv2d] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: called.append(module))
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        model(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise UserError("this architecture has no linear layer and no convolution to rescale; choose another attack")
    return called[-1]
