"""Pruning: the weights of least magnitude become 0 and stay 0 while the rest is fine-tuned.

Sources: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, with one
threshold for all layers; the released code of Yao et al. 2023, attack/weight_pruner.py. Shape: N weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from rnet.attacks.labelled import LabelledAttack
from rnet.attacks.prune.config import PruneConfig
from rnet.data.images import Dataset
from rnet.errors import UserError
from rnet.models.classifier import Classifier

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Prune(LabelledAttack):
    """Global magnitude pruning, then fine-tuning under masks."""

    config: PruneConfig

    def check(self, blueprint: Classifier, dataset: Dataset, default_layer: str | None) -> None:
        """Also refuses a network without a weight to prune."""
        self.weights(blueprint)
        super().check(blueprint, dataset, default_layer)

    def weights(self, surrogate: nn.Module) -> list[nn.Parameter]:
        """What is pruned: the weights of convolutions and, with attack.linear, of linear layers; a shared one once."""
        kinds = (*CONVOLUTIONS, nn.Linear) if self.config.linear else CONVOLUTIONS
        layers = [module for module in surrogate.modules() if isinstance(module, kinds)]
        found = list({id(w): w for layer in layers if isinstance(w := layer.weight, nn.Parameter)}.values())
        count = sum(weight.numel() for weight in found)
        if not 0 < round(self.config.rate * count) < count:
            what = "convolutions or linear layers" if self.config.linear else "convolutions"
            raise UserError(
                f"attack.rate={self.config.rate} of the {count} weights in {what} of this network prunes none or all; "
                + ("use another rate" if self.config.linear else "use another rate, or attack.linear=true")
            )
        return found

    def zeros(self, surrogate: nn.Module) -> Mapping[nn.Parameter, Tensor]:
        """The round(rate * N) weights of least magnitude."""
        weights = self.weights(surrogate)
        values_N = torch.cat([weight.detach().flatten().cpu() for weight in weights])
        kept_N = L1Unstructured(self.config.rate).compute_mask(values_N, torch.ones_like(values_N)).bool()
        shares = kept_N.split([weight.numel() for weight in weights])
        return {w: ~share.view_as(w) for w, share in zip(weights, shares, strict=True)}
