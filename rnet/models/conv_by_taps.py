"""Convolutions of small feature maps in training as matrix products, one for each tap of the kernel.

Libraries spread the gradient of the weights over the few positions of such a map badly, and multiply the zeros of the
border. Here a tap takes exactly the positions that it reaches: its gradient is one product over them and the samples.

Shapes: N samples, C channels in, K out, H height, W width.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rnet.rewrites.forwards import has_own_forward, replace_forward, restore_forward

FEWEST_CHANNELS = 128
"""In and out; the larger of the two twice as many. With fewer, or ..."""
LARGEST_MAP = 16
"""... on larger maps, a library's gradient of the weights is as fast (2 cores, AVX2)."""
LEAST_SAVED = 2.0
"""How many times fewer multiplications the other passes must take without the zero border."""


class Reach(NamedTuple):
    """What one tap does along one dimension: it reads the positions `read` for the positions `written`."""

    tap: int
    written: slice
    read: slice


def use_products(model: nn.Module) -> int:
    """Makes a model's wide convolutions train by matrix products where their maps are small; returns how many.

    The same function and gradients, up to rounding. Only the forward attribute of plain Conv2d modules changes: names,
    parameters and state dicts do not. What does not pay, or is no float32 on a CPU, runs as it always did.
    """
    wide = [module for module in model.modules() if _is_wide(module)]
    for conv in wide:
        replace_forward(conv, _forward)
    return len(wide)


def use_library(model: nn.Module) -> None:
    """Undoes use_products."""
    restore_forward(model, _forward)


def conv2d_by_taps(
    x_NCHW: Tensor, weight_KCRS: Tensor, bias_K: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """conv2d without groups or dilation: (N, K, H', W'), channels_last, with gradients to x, weight and bias."""
    result: Tensor = _ConvByTaps.apply(x_NCHW, weight_KCRS, bias_K, stride, padding)
    return result


@functools.cache
def reaches(size: int, kernel: int, stride: int, padding: int) -> tuple[Reach, ...]:
    """The taps that read anything but border, along a dimension of this size."""
    last_written = (size + 2 * padding - kernel) // stride
    found = []
    for tap in range(kernel):
        first = max(0, -((tap - padding) // stride))
        last = min(last_written, (size - 1 + padding - tap) // stride)
        if first <= last:
            start = stride * first + tap - padding
            read = slice(start, start + stride * (last - first) + 1, stride)
            found.append(Reach(tap, slice(first, last + 1), read))
    return tuple(found)


class _ConvByTaps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        if not _border_costs(x, weight, stride, padding):
            return torch.conv2d(x, weight, bias, stride, padding)
        height, width = (
            (size + 2 * border - kernel) // step + 1
            for size, border, kernel, step in zip(x.shape[2:], padding, weight.shape[2:], stride, strict=True)
        )
        y_NCHW = x.new_zeros(len(x), height, width, len(weight)).permute(0, 3, 1, 2)
        for down, across in _taps(x, weight, stride, padding):
            weight_CK = weight[:, :, down.tap, across.tap].t()
            for to, at in _positions(down, across):
                y_NCHW[:, :, *to].addmm_(x[:, :, *at], weight_CK)
        return y_NCHW if bias is None else y_NCHW.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NKHW: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, *_ = ctx.needs_input_grad
        taps = _taps(x, weight, ctx.stride, ctx.padding)
        grad_x = grad_weight = None
        if for_x and _border_costs(x, weight, ctx.stride, ctx.padding):
            grad_x = torch.zeros_like(x, memory_format=torch.channels_last)
            for down, across in taps:
                for at, to in _positions(down, across):
                    grad_x[:, :, *to].addmm_(grad_NKHW[:, :, *at], weight[:, :, down.tap, across.tap])
        elif for_x:
            grad_x = torch.ops.aten.convolution_backward(
                grad_NKHW, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        if for_weight:
            grad_weight = torch.zeros_like(weight, memory_format=torch.channels_last)
            x_NHWC, grad_NHWK = x.permute(0, 2, 3, 1), grad_NKHW.permute(0, 2, 3, 1)
            for down, across in taps:
                read_MC = x_NHWC[:, down.read, across.read].reshape(-1, weight.shape[1])
                grad_MK = grad_NHWK[:, down.written, across.written].reshape(-1, len(weight))
                grad_weight[:, :, down.tap, across.tap] = grad_MK.t() @ read_MC
        return grad_x, grad_weight, grad_NKHW.sum((0, 2, 3)) if for_bias else None, None, None


def _taps(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> list[tuple[Reach, Reach]]:
    """Down and across, of every tap."""
    down, across = (
        reaches(size, kernel, step, border)
        for size, kernel, step, border in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    )
    return list(itertools.product(down, across))


def _positions(down: Reach, across: Reach) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(row, column) that is written and (row, column) that is read, for every position that a tap reaches."""
    rows, columns = (zip(_indices(reach.written), _indices(reach.read), strict=True) for reach in (down, across))
    return [((to, left), (at, right)) for (to, at), (left, right) in itertools.product(rows, columns)]


def _indices(part: slice) -> range:
    return range(part.start, part.stop, part.step or 1)


def _border_costs(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> bool:
    """Whether so many multiplications meet the zero border that products of single positions are faster."""
    kept = full = 1
    for size, kernel, step, border in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True):
        kept *= sum(len(_indices(reach.written)) for reach in reaches(size, kernel, step, border))
        full *= kernel * ((size + 2 * border - kernel) // step + 1)
    return full >= LEAST_SAVED * kept


def _is_wide(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d or has_own_forward(module) or isinstance(module.padding, str):
        return False
    if module.groups != 1 or module.dilation != (1, 1) or module.padding_mode != "zeros":
        return False
    channels = (module.in_channels, module.out_channels)
    return min(channels) >= FEWEST_CHANNELS and max(channels) >= 2 * FEWEST_CHANNELS


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    """What the forward of a wide convolution becomes."""
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    if plain or max(x.shape[2:]) > LARGEST_MAP or not (torch.is_grad_enabled() and self.weight.requires_grad):
        return type(self).forward(self, x)
    return conv2d_by_taps(x, self.weight, self.bias, self.stride, self.padding)  # type: ignore[arg-type]
