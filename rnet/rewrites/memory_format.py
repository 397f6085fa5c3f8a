"""channels_last where it helps and is safe: convolutions then skip reordering their inputs on CPUs and GPUs."""

from __future__ import annotations

import torch
from torch import nn

ONEDNN_CHANNEL_BLOCK = 16


def use_channels_last(model: nn.Module) -> bool:
    """Puts the model's weights into channels_last in place, unless that is unsafe; returns whether it did.

    On CPUs the backward pass of a strided 1x1 convolution of channels_last images with fewer than 16 channels writes
    past its buffer (uxlfoundation/oneDNN issue 6035, seen with torch 2.15), so a model that has one stays as it is.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if on_cpu and any(_overruns(module) for module in model.modules()):
        return False
    model.to(memory_format=torch.channels_last)
    return True


def _overruns(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and (module.in_channels // module.groups) % ONEDNN_CHANNEL_BLOCK != 0
    )
