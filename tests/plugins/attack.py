"""An attack in one file: pruning, which sets the smallest weights of the stolen model to zero.

rnet attack attack=mylab.attack:Prune attack.rate=0.5
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rnet import Attack, AttackConfig, AttackContext, Dataset, Suspect, UserError


@dataclass(frozen=True, kw_only=True)
class PruneConfig(AttackConfig):
    """The keys of this attack."""

    rate: float = 0.3
    """Share of the weights of each convolution and linear layer that become zero."""

    def check(self) -> None:
        """Refuses what is no share."""
        if not 0 < self.rate < 1:
            raise UserError(f"attack.rate={self.rate} must lie between 0 and 1")


class Prune(Attack):
    """Weights of least magnitude become zero (Han et al. 2015), without any training after it."""

    config: PruneConfig

    @torch.no_grad()
    def run(self, dataset: Dataset, context: AttackContext) -> Suspect:
        """A pruned copy of the victim."""
        model = context.copy_of_victim()
        removed = 0
        for weight in (parameter for parameter in model.parameters() if parameter.ndim > 1):
            smallest = weight.abs() <= weight.abs().quantile(self.config.rate)
            weight.masked_fill_(smallest, 0)
            removed += int(smallest.sum())
        return Suspect(model=model, derived=True, cost={"weights_removed": removed})
