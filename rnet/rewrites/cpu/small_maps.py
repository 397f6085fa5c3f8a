"""On a CPU: convolutions of small feature maps, rewritten to take fewer multiplications or larger products."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnet.rewrites.convolutions import RewrittenConv2d
from rnet.rewrites.cpu.products import PackedWeights
from rnet.rewrites.cpu.winograd import multiplications, transform_weights, winograd_conv

FEWEST_CHANNELS = 128
"""With fewer, a direct 3x3 convolution is as fast (2 cores, AVX2); twice as many where tiles stick out of the map."""
FEWEST_SUBSAMPLED = 64
LARGEST_SUBSAMPLED = 8
"""Larger maps cost the backward pass as much in zeros as the product saves."""
LARGEST_MAP = 16
LEAST_SAVED = 3.0
"""How many times fewer multiplications Winograd's algorithm must take."""

_untraced = torch.compiler.disable(winograd_conv)
"""For a compiler, which could not look into packed weights. Asking costs less than calling this where there is none."""


class _OfFloats(RewrittenConv2d):
    """In the weights' type."""

    def fits(self, x_NCHW: Tensor) -> bool:
        same = x_NCHW.dtype == self.conv.weight.dtype and not torch.is_autocast_enabled("cpu")
        return same and super().fits(x_NCHW)


class WinogradConv2d(_OfFloats):
    """3x3 by Winograd's algorithm (rnet/rewrites/cpu/winograd.py)."""

    kernel, stride = 3, 1

    def __init__(self, conv: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__(conv, size)
        self._weights = PackedWeights(self._products)

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        height, width = size
        exact = size == (2, 2) or (height % 4 == 0 and width % 4 == 0)
        fewest = FEWEST_CHANNELS if exact else 2 * FEWEST_CHANNELS
        saved = 9 * height * width / multiplications(size)
        return max(size) <= LARGEST_MAP and min(channels_in, channels_out) >= fewest and saved >= LEAST_SAVED

    def refresh(self) -> None:
        self._weights.renew()

    def _products(self) -> Tensor:
        return transform_weights(self.conv.weight, self.size, self.stride)

    def compute(self, x_NCHW: Tensor) -> Tensor:
        convolve = _untraced if torch.compiler.is_compiling() else winograd_conv
        y: Tensor = convolve(x_NCHW, self._weights, self.conv.bias, self.size, self.stride)
        return y


class HalvingConv2d(WinogradConv2d):
    """3x3 with stride 2 from 4x4 to 2x2, without the 11 of 36 multiplications that meet the zero border."""

    kernel, stride = 3, 2

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        return size == (4, 4) and min(channels_in, channels_out) >= FEWEST_CHANNELS


class SubsampledConv2d(_OfFloats):
    """1x1 with stride 2 as one with stride 1 of every other row and column: one large matrix product."""

    kernel, stride = 1, 2

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        return max(size) <= LARGEST_SUBSAMPLED and min(channels_in, channels_out) >= FEWEST_SUBSAMPLED

    def compute(self, x_NCHW: Tensor) -> Tensor:
        part_NHWC = x_NCHW.permute(0, 2, 3, 1)[:, ::2, ::2].contiguous()  # cut so, the gradient is channels_last, too
        return F.conv2d(part_NHWC.permute(0, 3, 1, 2), self.conv.weight, self.conv.bias)


KINDS = (WinogradConv2d, HalvingConv2d, SubsampledConv2d)
"""For float32."""
