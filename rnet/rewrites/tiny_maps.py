"""Convolutions of the tiniest feature maps, rewritten as one product of matrices.

Of maps of 2x2 pixels, which networks for large images make of small ones, 5 of the 9 taps of a 3x3 convolution meet
the zero border; of one pixel, 8. As a linear layer from all pixels of all channels to all pixels of all channels none
does, and libraries multiply matrices faster than they convolve so few pixels, forwards and even more so backwards.

Shapes: N samples, I pixels and C channels of the input, O pixels and K channels of the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnet.rewrites.convolutions import RewrittenConv2d, stands_for
from rnet.rewrites.forwards import has_own_forward, replace_forward

LARGEST_MAP = 2
"""Every pixel of such maps is within reach of every tap that does not meet the border."""


class DenseConv2d(RewrittenConv2d):
    """3x3, stride 1, of at most 2x2 pixels."""

    kernel, stride = 3, 1

    weight: Tensor
    """(O * K, I * C)"""
    bias: Tensor | None
    """(O * K)"""
    _taps_OI: Tensor

    def __init__(self, conv: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__(conv, size)
        self.out_size = _out_size(size, self.stride)
        taps_OI = torch.tensor(_taps(size, self.stride))
        pixels_O, pixels_I = taps_OI.shape
        weight = conv.weight.new_empty(pixels_O * conv.out_channels, pixels_I * conv.in_channels)
        bias = None if conv.bias is None else conv.bias.new_empty(len(weight))
        for name, tensor in {"weight": weight, "bias": bias, "_taps_OI": taps_OI.to(weight.device)}.items():
            self.register_buffer(name, tensor, persistent=False)
        self.refresh()

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        return max(size) <= LARGEST_MAP

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the Conv2d's present weights, in place."""
        weight_OKIC = _weight_of(self.conv, self._taps_OI)
        self.weight.view(weight_OKIC.shape).copy_(weight_OKIC)
        if self.bias is not None and self.conv.bias is not None:
            self.bias.view(-1, self.conv.out_channels).copy_(self.conv.bias)

    def compute(self, x_NCHW: Tensor) -> Tensor:
        """As the Conv2d, of maps of the one size."""
        return _product(x_NCHW, self.weight, self.bias, self.out_size)


class HalvingDenseConv2d(DenseConv2d):
    """The same with stride 2, to one pixel."""

    kernel, stride = 3, 2


KINDS = (DenseConv2d, HalvingDenseConv2d)


# --- in training, where weights change with every step


FEWEST_IMAGES = 32
"""With fewer, putting a weight for 2x2 pixels together costs as much as the product saves (2 cores, AVX512)."""


def train_as_products(model: nn.Module) -> int:
    """Lets convolutions of the model compute maps of at most 2x2 pixels as products; returns how many may.

    The same function and gradients up to rounding. In float32 on CPUs, where it was measured: of 64 images and more,
    512 channels with both gradients take 0.4 to 0.6 of the time at 2x2 pixels, and a fifth or less at one pixel.
    Weights, names and state dicts stay as they are.
    """
    found = [
        module
        for module in model.modules()
        if any(stands_for(kind, module) for kind in KINDS) and not has_own_forward(module)
    ]
    for conv in found:
        replace_forward(conv, _forward)
    return len(found)


def _forward(self: nn.Conv2d, x_NCHW: Tensor) -> Tensor:
    """What the forward of a convolution becomes."""
    size = tuple(x_NCHW.shape[2:])
    if not _pays_in_training(x_NCHW, self.weight, self.stride[0]):
        return type(self).forward(self, x_NCHW)
    taps_OI, out_size = torch.tensor(_taps(size, self.stride[0])), _out_size(size, self.stride[0])
    weight = _weight_of(self, taps_OI).flatten(2).flatten(0, 1)
    bias = None if self.bias is None else self.bias.repeat(len(taps_OI))
    return _product(x_NCHW, weight, bias, out_size)


FORWARDS = (_forward,)
"""What train_as_products puts in."""


def _pays_in_training(x_NCHW: Tensor, weight: Tensor, stride: int) -> bool:
    if x_NCHW.ndim != 4 or not 1 <= max(x_NCHW.shape[2:]) <= LARGEST_MAP:
        return False
    enough = len(x_NCHW) >= FEWEST_IMAGES or max(_out_size(x_NCHW.shape[2:], stride)) == 1
    in_floats = x_NCHW.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return enough and in_floats and x_NCHW.device.type == "cpu"


# --- the product


def _taps(size: tuple[int, ...], stride: int) -> list[list[int]]:
    """[O][I]: which of the 9 taps leads from a pixel to a pixel."""
    rows, columns = (
        [[place - stride * out + 1 for place in range(side)] for out in range(out_side)]
        for side, out_side in zip(size, _out_size(size, stride), strict=True)
    )
    return [[3 * y + x for y in across_y for x in across_x] for across_y in rows for across_x in columns]


def _out_size(size: Sequence[int], stride: int) -> tuple[int, ...]:
    return tuple(-(-side // stride) for side in size)


def _weight_of(conv: nn.Conv2d, taps_OI: Tensor) -> Tensor:
    """(O, K, I, C): from each pixel and channel to each."""
    by_tap_9KC = conv.weight.permute(2, 3, 0, 1).flatten(0, 1)
    return by_tap_9KC.index_select(0, taps_OI.flatten()).unflatten(0, taps_OI.shape).transpose(1, 2)


def _product(x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, out_size: tuple[int, ...]) -> Tensor:
    """weight: (O * K, I * C). bias: (O * K)."""
    y = F.linear(x_NCHW.permute(0, 2, 3, 1).flatten(1), weight, bias)
    return y.unflatten(1, (*out_size, -1)).permute(0, 3, 1, 2)
