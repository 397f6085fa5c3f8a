"""Where a model is, and asking it in eval mode without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def frozen_eval(*models: nn.Module) -> Iterator[None]:
    """Inside, the models are in eval mode and their parameters ask for no gradient; every flag is put back after."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for model in models for parameter in model.parameters()]
    try:
        for model in models:
            model.eval()
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in grads:
            parameter.requires_grad_(requires_grad)
