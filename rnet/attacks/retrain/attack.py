"""Retraining: the victim with its last linear layers initialised anew, trained as fine-tuning is."""

from __future__ import annotations

import torch
from torch import nn

from rnet.attacks.labelled import LabelledAttack, linear_layers
from rnet.attacks.retrain.config import RetrainConfig
from rnet.data.images import Dataset
from rnet.draws import derive_seed
from rnet.errors import UserError
from rnet.models.classifier import Classifier


class Retrain(LabelledAttack):
    """What DeepJudge calls RTAL where all is trained; with attack.trained=layers the features stay the victim's."""

    config: RetrainConfig

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Also refuses more linear layers than there are."""
        self.layers(blueprint)
        super().check(blueprint, dataset, default_layer)

    def layers(self, surrogate: nn.Module) -> list[nn.Linear]:
        """The layers that are initialised anew."""
        found = linear_layers(surrogate)
        if len(found) < self.config.layers:
            remedy = f"use at most {len(found)}" if found else "use another attack"
            raise UserError(
                f"attack.layers={self.config.layers}: this network has {len(found)} linear layers; {remedy}"
            )
        return found[-self.config.layers :]

    @torch.no_grad()
    def begin(self, surrogate: nn.Module, seed: int) -> None:
        """Draws the new layers as torch draws a layer, on the CPU: the same on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "new layers"))
            for layer in self.layers(surrogate):
                new = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                layer.weight.copy_(new.weight)
                if layer.bias is not None:
                    layer.bias.copy_(new.bias)

    def trained(self, surrogate: nn.Module) -> list[nn.Parameter]:
        """All parameters, or those of the new layers."""
        if self.config.trained == "all":
            return list(surrogate.parameters())
        return [parameter for layer in self.layers(surrogate) for parameter in layer.parameters()]
