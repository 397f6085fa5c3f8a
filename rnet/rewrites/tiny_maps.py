"""Convolutions of the tiniest feature maps, rewritten as one product of matrices.

Of maps of 2x2 pixels, which networks for large images make of small ones, 5 of the 9 taps of a 3x3 convolution meet
the zero border; of one pixel, 8. As a linear layer from all pixels of all channels to all pixels of all channels none
does, and libraries multiply matrices faster than they convolve so few pixels, forwards and even more so backwards.

Shapes: N samples, I pixels and C channels of the input, O pixels and K channels of the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnet.rewrites.convolutions import RewrittenConv2d

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
        self.out_size = tuple(-(-side // self.stride) for side in size)
        rows, columns = (self._taps(*sides) for sides in zip(size, self.out_size, strict=True))
        taps_OI = (3 * rows[:, None, :, None] + columns[None, :, None, :]).flatten(2).flatten(0, 1)
        pixels_O, pixels_I = taps_OI.shape
        weight = conv.weight.new_empty(pixels_O * conv.out_channels, pixels_I * conv.in_channels)
        bias = None if conv.bias is None else conv.bias.new_empty(len(weight))
        for name, tensor in {"weight": weight, "bias": bias, "_taps_OI": taps_OI.to(weight.device)}.items():
            self.register_buffer(name, tensor, persistent=False)
        self.refresh()

    def _taps(self, side: int, out_side: int) -> Tensor:
        """(out_side, side): along one axis, which of the 3 taps leads from a place to a place."""
        return torch.arange(side) - self.stride * torch.arange(out_side)[:, None] + 1

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        return max(size) <= LARGEST_MAP

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes over the Conv2d's present weights, in place."""
        by_tap_9KC = self.conv.weight.permute(2, 3, 0, 1).flatten(0, 1)
        weight_OIKC = by_tap_9KC[self._taps_OI]
        self.weight.view(*weight_OIKC.transpose(1, 2).shape).copy_(weight_OIKC.transpose(1, 2))
        if self.bias is not None and self.conv.bias is not None:
            self.bias.view(-1, self.conv.out_channels).copy_(self.conv.bias)

    def compute(self, x_NCHW: Tensor) -> Tensor:
        """As the Conv2d, of maps of the one size."""
        y = F.linear(x_NCHW.permute(0, 2, 3, 1).flatten(1), self.weight, self.bias)
        return y.unflatten(1, (*self.out_size, -1)).permute(0, 3, 1, 2)


class HalvingDenseConv2d(DenseConv2d):
    """The same with stride 2, to one pixel."""

    kernel, stride = 3, 2


KINDS = (DenseConv2d, HalvingDenseConv2d)
