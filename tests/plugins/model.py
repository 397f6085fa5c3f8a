"""A model in one file: two convolutions and a linear layer.

rnet train model=mylab.model:SmallNet model.channels=32
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from rnet import ModelConfig


@dataclass(frozen=True, kw_only=True)
class SmallNetConfig(ModelConfig):
    """The keys of this model, beside those of all: the input size, the layers to cut at, weights to import."""

    channels: int = 8
    """Of the first convolution; the second has twice as many."""
    cut_layers: list[str] = field(default_factory=lambda: ["first", "second"])
    """Where attacks and defences cut it unless they are told."""


class SmallNet(nn.Module):
    """Normalised pixels (B, in_channels, H, W) -> logits (B, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int, config: SmallNetConfig) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, config.channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.second = nn.Sequential(nn.Conv2d(config.channels, 2 * config.channels, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classes = nn.Linear(8 * config.channels, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.classes(self.pool(self.second(self.first(x_BCHW))).flatten(1))
