"""Where a value of a network has its channels, and which operations are known to leave them side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rnet.attacks.obfuscate.groups import Group


@dataclass(frozen=True)
class Layout:
    """axis: of the channels. segments: (group, repeat) in their order; each channel has `repeat` entries in a row."""

    axis: int
    segments: tuple[tuple[Group, int], ...]


HOMOGENEOUS = {
    *("Identity", "ReLU", "LeakyReLU", "Dropout", "Dropout2d", "DropPath", "StochasticDepth"),
    *("relu", "relu_", "leaky_relu", "dropout", "dropout_", "contiguous", "clone", "detach", "float"),
    "stochastic_depth",
}  # fmt: skip
ELEMENTWISE = {
    *("ReLU6", "GELU", "SiLU", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh", "ELU", "Mish"),
    *("relu6", "gelu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "elu", "mish"),
}
"""Elementwise, but f(s * x) is not s * f(x)."""
POOLS = {
    *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d"),
    *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "boolean_dispatch"),
}
MOVES = {
    *("Flatten", "Permute", "flatten", "reshape", "view", "permute", "transpose", "movedim", "expand", "getitem"),
    *("mean", "squeeze", "unsqueeze"),
}
"""What moves, drops, repeats or averages entries without telling one channel from another."""
SHAPES = {"getattr", "size", "dim", "_assert"}
"""What may look at a value for its shape."""
SUMS = {"add", "iadd", "add_", "sub", "isub"}
PRODUCTS = {"mul", "imul", "mul_"}


def entries(layout: Layout) -> int:
    """How long the axis of the channels is."""
    return sum(group.size * repeat for group, repeat in layout.segments)


def moved(layout: Layout, x: Tensor, operation: Callable[[Tensor], Tensor]) -> Layout | None:
    """The layout after an operation that only moves, drops, repeats or averages entries; None where channels mix.

    The operation is run on numbers that count the channels: afterwards they must still count along one axis.
    """
    count = x.shape[layout.axis]
    shape = [1] * x.dim()
    shape[layout.axis] = count
    numbers = operation(torch.arange(count, dtype=torch.float64).view(shape).expand_as(x).contiguous())
    for axis, size in enumerate(numbers.shape):
        if size % count or numbers.numel() == 0:
            continue
        counting = torch.arange(count, dtype=torch.float64).repeat_interleave(size // count)
        shape = [1] * numbers.dim()
        shape[axis] = size
        if torch.allclose(numbers, counting.view(shape).expand_as(numbers), rtol=0, atol=1e-6):
            return Layout(axis, tuple((group, repeat * (size // count)) for group, repeat in layout.segments))
    return None
