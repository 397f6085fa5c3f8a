"""Fitting the first convolution of an architecture made for 224-pixel colour photographs to other images."""

from __future__ import annotations

import torch
from torch import nn

_REPLACED = {"ResNet": "conv1", "DenseNet": "features.conv0"}
"""A 7x7 convolution with stride 2 becomes 3x3 with stride 1; the max pooling after it stays."""
_UNSTRIDED = {"MobileNetV2": ("features.0.0",), "MobileNetV3": ("features.0.0", "conv_stem"),
              "EfficientNet": ("features.0.0", "conv_stem")}  # fmt: skip
"""A 3x3 convolution loses its stride of 2; under torchvision's name, or timm's."""
_SMALL_ALREADY = ("SmallResNet", "VGG")


def has_small_stem(backbone: nn.Module) -> bool:
    """Whether it is of a family whose published stem is for small images already."""
    return not {base.__name__ for base in type(backbone).__mro__}.isdisjoint(_SMALL_ALREADY)


def shrink_stem(backbone: nn.Module) -> str | None:
    """Gives the backbone a stem for small images, in place; the name of what it changed, None if nothing is known."""
    families = {base.__name__ for base in type(backbone).__mro__}
    modules = dict(backbone.named_modules())
    for family, name in _REPLACED.items():
        old = modules.get(name)
        if family in families and isinstance(old, nn.Conv2d):
            new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=old.bias is not None)
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
            backbone.set_submodule(name, new)
            return name
    for family, names in _UNSTRIDED.items():
        for name in names:
            conv = modules.get(name)
            if family in families and isinstance(conv, nn.Conv2d):
                conv.stride = (1, 1)
                return name
    return None


def fit_channels(backbone: nn.Module, channels: int) -> None:
    """Makes the first convolution take so many image channels, in place; its initial weights are reused in turn."""
    conv = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    if conv.in_channels != channels:
        conv.weight = nn.Parameter(conv.weight.detach()[:, torch.arange(channels) % conv.in_channels])
        conv.in_channels = channels
