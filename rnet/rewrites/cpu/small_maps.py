"""Convolutions of small feature maps in a frozen model, rewritten to take fewer multiplications or larger products."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class RewrittenConv2d(nn.Module):
    """A Conv2d of frozen weights for maps of one size; others, and tensors of another type, take the Conv2d itself.

    Call refresh() whenever the weights have changed.
    """

    kernel: ClassVar[int]
    stride: ClassVar[int]

    def __init__(self, conv: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = conv
        self.size = size

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        """Whether it is faster than a Conv2d with maps of this size (H, W)."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Takes over the Conv2d's present weights."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """As the Conv2d, up to rounding; channels_last."""
        weight = self.conv.weight
        if x_NCHW.shape[2:] != self.size or x_NCHW.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
            return self.conv(x_NCHW)
        return self.compute(x_NCHW)

    def compute(self, x_NCHW: Tensor) -> Tensor:
        """As the Conv2d, for maps of the one size."""
        raise NotImplementedError


class WinogradConv2d(RewrittenConv2d):
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


class SubsampledConv2d(RewrittenConv2d):
    """1x1 with stride 2 as one with stride 1 of every other row and column: one large matrix product."""

    kernel, stride = 1, 2

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        return max(size) <= LARGEST_SUBSAMPLED and min(channels_in, channels_out) >= FEWEST_SUBSAMPLED

    def compute(self, x_NCHW: Tensor) -> Tensor:
        part_NHWC = x_NCHW.permute(0, 2, 3, 1)[:, ::2, ::2].contiguous()  # cut so, the gradient is channels_last, too
        return F.conv2d(part_NHWC.permute(0, 3, 1, 2), self.conv.weight, self.conv.bias)


KINDS = (WinogradConv2d, HalvingConv2d, SubsampledConv2d)


@torch.no_grad()
def quicken(model: nn.Module, x_BCHW: Tensor) -> list[RewrittenConv2d]:
    """Replaces convolutions of the model in place, where it pays for images like x; returns the new modules.

    model: in eval mode and frozen, in float32 on a CPU. Which are replaced follows from channels and map sizes alone,
    so that a run that resumes computes as the one that was interrupted.
    """
    sizes: dict[str, set[tuple[int, int]]] = {}
    handles = []
    for name, module in model.named_modules():
        if _kind(module) is not None:

            def note(module: nn.Module, arguments: Any, name: str = name) -> None:
                sizes.setdefault(name, set()).add(tuple(arguments[0].shape[2:]))

            handles.append(module.register_forward_pre_hook(note))
    try:
        model(x_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    replaced = []
    for name, found in sizes.items():
        conv = model.get_submodule(name)
        kind = _kind(conv)
        assert isinstance(conv, nn.Conv2d)
        assert kind is not None
        if len(found) == 1 and kind.pays(conv.in_channels, conv.out_channels, size := found.pop()):
            replaced.append(kind(conv, size))
            model.set_submodule(name, replaced[-1])
    return replaced


def _kind(conv: nn.Module) -> type[RewrittenConv2d] | None:
    """What the module could become: None unless it is a plain Conv2d, square, with the usual border and no hooks."""
    if type(conv) is not nn.Conv2d or conv._forward_hooks or conv._forward_pre_hooks or conv._backward_hooks:
        return None
    if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return None
    for kind in KINDS:
        border = kind.kernel // 2
        if (
            conv.kernel_size == (kind.kernel,) * 2
            and conv.stride == (kind.stride,) * 2
            and (conv.padding == (border, border) or conv.padding == "same")
        ):
            return kind
    return None
