"""A defence in one file: how far a suspect's probabilities on the victim's test images are from the victim's.

rnet verify attack=finetune defense=mylab.defense:OutputDistance defense.num_queries=50 negatives=3
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rnet import ComponentConfig, Dataset, Defense, Fingerprint, Metric, UserError


@dataclass(frozen=True, kw_only=True)
class OutputDistanceConfig(ComponentConfig):
    """The keys of this defence."""

    num_queries: int = 100
    """Test images that both models are asked."""

    def check(self) -> None:
        """Refuses no queries."""
        if self.num_queries < 1:
            raise UserError(f"defense.num_queries={self.num_queries} must be at least 1")


class OutputDistance(Defense):
    """Mean total variation distance between the models' probabilities."""

    config: OutputDistanceConfig
    metrics = (Metric(name="total_variation", direction="distance", low=0.0, high=1.0, access="probabilities"),)

    @torch.no_grad()
    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """The queries and what the victim answers; a function of the victim, its data and the seed."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        indices_N = torch.randperm(len(dataset.test), generator=generator)[: self.config.num_queries]
        queries_NCHW = dataset.test.pixels(indices_N)
        probs_NK = _probabilities(victim, queries_NCHW)
        tensors = {"queries_NCHW": queries_NCHW, "probs_NK": probs_NK}
        return Fingerprint.of(self, dataset, seed, tensors, num_classes=probs_NK.shape[1])

    @torch.no_grad()
    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """One score for each metric."""
        theirs_NK = _probabilities(suspect, fingerprint.tensors["queries_NCHW"])
        distances_N = (theirs_NK - fingerprint.tensors["probs_NK"]).abs().sum(dim=1) / 2
        return {"total_variation": float(distances_N.mean())}


def _probabilities(model: nn.Module, x_NCHW: torch.Tensor) -> torch.Tensor:
    """(N, K) on the CPU; the model is in eval mode and may be on any device."""
    device = next(model.parameters()).device
    return model(x_NCHW.to(device)).float().softmax(dim=1).cpu()
