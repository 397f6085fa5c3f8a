"""What of a network is computed otherwise while an engine trains it: the same function, weights and names."""

from __future__ import annotations

import torch
from torch import nn

from rnet.cutting.split import SplitModel
from rnet.rewrites import pooled_linear, tiny_maps
from rnet.rewrites.forwards import restore_forward


def quicken_training(model: nn.Module, device: torch.device) -> None:
    """Takes work out of the model's forward and backward passes, in place. device: where it is trained."""
    if isinstance(model, SplitModel):
        pooled_linear.read_repeated_once(model.model, model.cut)
    if device.type == "cpu":
        tiny_maps.train_as_products(model)


def train_as_torch(model: nn.Module) -> None:
    """Undoes quicken_training."""
    restore_forward(model, *pooled_linear.FORWARDS, *tiny_maps.FORWARDS)
