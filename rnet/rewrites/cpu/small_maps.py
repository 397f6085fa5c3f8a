"""Convolutions of small feature maps in a frozen model, rewritten to take fewer multiplications or larger products."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnet.kernels.kept_tensors import keep_tensors
from rnet.rewrites.cpu.winograd import products, transform_weights, winograd_conv

FEWEST_CHANNELS = 128
"""With fewer, a direct 3x3 convolution is as fast (2 cores, AVX2); twice as many where tiles stick out of the map."""
FEWEST_SUBSAMPLED = 64
LARGEST_SUBSAMPLED = 8
"""Larger maps cost the backward pass as much in zeros as the product saves."""
LARGEST_MAP = 16
LEAST_SAVED = 3.0
"""How many times fewer multiplications Winograd's algorithm must take."""


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
        """Takes over the Conv2d's present weights, in place."""

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
    u_PCK: Tensor

    def __init__(self, conv: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__(conv, size)
        self.register_buffer("u_PCK", transform_weights(conv.weight, size), persistent=False)

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        height, width = size
        exact = size == (2, 2) or (height % 4 == 0 and width % 4 == 0)
        fewest = FEWEST_CHANNELS if exact else 2 * FEWEST_CHANNELS
        saved = 9 * height * width / products(size)
        return max(size) <= LARGEST_MAP and min(channels_in, channels_out) >= fewest and saved >= LEAST_SAVED

    def refresh(self) -> None:
        transform_weights(self.conv.weight, self.size, out=self.u_PCK)

    def compute(self, x_NCHW: Tensor) -> Tensor:
        return winograd_conv(x_NCHW, self.u_PCK, self.conv.bias)


class HalvingConv2d(RewrittenConv2d):
    """3x3 with stride 2 from 4x4 to 2x2, without the 11 of 36 multiplications that meet the zero border.

    P = 25 pairs of a position that is read and one that is written, as many matrix products, forward and backward.
    """

    kernel, stride = 3, 2
    u_PCK: Tensor

    def __init__(self, conv: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__(conv, size)
        self.register_buffer("u_PCK", self._taps(), persistent=False)

    @classmethod
    def pays(cls, channels_in: int, channels_out: int, size: tuple[int, int]) -> bool:
        return size == (4, 4) and min(channels_in, channels_out) >= FEWEST_CHANNELS

    def refresh(self) -> None:
        self.u_PCK.copy_(self._taps())

    def compute(self, x_NCHW: Tensor) -> Tensor:
        size_N, channels, bias = len(x_NCHW), self.u_PCK.shape[2], self.conv.bias
        read_PI, _, write_OP = (matrix.to(x_NCHW) for matrix in _halving())
        x_NIC = x_NCHW.permute(0, 2, 3, 1).reshape(size_N, 16, -1)
        x_PNC = torch.bmm(read_PI.expand(size_N, -1, -1), x_NIC).transpose(0, 1)
        y_NPK = torch.bmm(x_PNC, self.u_PCK).transpose(0, 1)
        start = x_NCHW.new_zeros(()) if bias is None else bias
        y_NOK = torch.baddbmm(start, write_OP.expand(size_N, -1, -1), y_NPK)
        return y_NOK.view(size_N, 2, 2, channels).permute(0, 3, 1, 2)

    def _taps(self) -> Tensor:
        tap_P = _halving()[1]
        return self.conv.weight.detach().flatten(2)[:, :, tap_P].permute(2, 1, 0).contiguous()


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


@keep_tensors()
def _halving() -> tuple[Tensor, Tensor, Tensor]:
    """What each of 25 products reads (25, 16), its tap (25,) and where it is added (4, 25)."""
    line = [(2 * y + tap - 1, tap, y) for y in range(2) for tap in range(3) if 2 * y + tap - 1 >= 0]
    read, write = torch.zeros(5, 4), torch.zeros(2, 5)
    for p, (x, _, y) in enumerate(line):
        read[p, x] = write[y, p] = 1.0
    taps = torch.tensor([3 * vertical + horizontal for _, vertical, _ in line for _, horizontal, _ in line])
    return torch.kron(read, read), taps, torch.kron(write, write)
