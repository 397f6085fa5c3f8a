"""Batch norm over the global batch: N processes with shards normalise as one process with the whole batch would.

On CUDA it is torch's SyncBatchNorm, on CPUs, which that does not support, GlobalBatchNorm. Its gradient is written out,
although torch can differentiate through a sum over ranks (torch.distributed.nn.functional.all_reduce): a variance made
from sums of squares needs them in float64, because in float32 a mean of 1000 leaves no digit of a variance of 1e-4, and
then a forward and a backward pass of 64x64x16x16 take 15 ms of a CPU's time instead of 5. Shapes: x (B, C, ...) of C
channels, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rnet.errors import UserError
from rnet.parallel.collectives import gather_rows, sum_over_ranks, world_size

_USUAL_MOMENTUM = 0.1
"""Of torch's batch norms."""
_MEMORIES = 20
"""How many times a training must be as long as 1 / momentum, which is how many steps a running average goes back."""


def use_global_batch_norm(model: nn.Module, device: torch.device | None = None) -> None:
    """Makes every batch norm of the model use the statistics of the global batch in train mode. In place.

    device: where the model will be trained, by default where it is.

    Call it once torch.distributed is initialised; with one process, or without, it changes nothing. The modules stay
    the same objects with the same parameters, buffers, hooks and modes, only their class changes, so that optimizers
    and cuts made before remain valid. Raises UserError for a batch norm with a forward() of its own, other than timm's.
    """
    if world_size() == 1:
        return
    on_cuda = (device or next(chain(model.parameters(), model.buffers())).device).type == "cuda"
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm)]
    found = [(m, _global_class(name, type(m), on_cuda)) for name, m in norms if not hasattr(m, "local_class")]
    for module, global_class in found:
        vars(module)["local_class"] = type(module)
        if on_cuda:
            vars(module).setdefault("process_group", None)  # SyncBatchNorm's name for all ranks
        module.__class__ = global_class


def use_local_batch_norm(model: nn.Module) -> None:
    """Undoes use_global_batch_norm: every batch norm is again of the class it was, with its statistics as they are."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and hasattr(module, "local_class"):
            module.__class__ = vars(module).pop("local_class")
            if not isinstance(module, nn.SyncBatchNorm):
                vars(module).pop("process_group", None)


@contextmanager
def quick_statistics(model: nn.Module, num_steps: int) -> Iterator[str]:
    """Inside, running statistics follow a training of so many steps; what was changed for that, in words, or nothing.

    Some networks (MNASNet, MobileNetV3) were published with averages over 100 to 3,000 steps: after a short training,
    these still hold what they began with, and the network fails in eval mode however well it has learned. Where they
    would go back over more than a twentieth of the training they are shortened, to torch's usual ten steps at the most.
    """
    momentum = min(_USUAL_MOMENTUM, _MEMORIES / max(1, num_steps))
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    slow = [(module, own) for module in norms if (own := module.momentum) is not None and 0 < own < momentum]
    for module, _ in slow:
        module.momentum = momentum
    said = (
        f"running statistics of batch norms ({len(slow)} of {len(norms)}) go back over {1 / momentum:.0f} steps, not "
        f"{1 / min(own for _, own in slow):,.0f}, as the run has only {num_steps:,}"
        if slow
        else ""
    )
    try:
        yield said
    finally:
        for module, own in slow:
            module.momentum = own


class GlobalBatchNorm(_BatchNorm):
    """Batch norm whose batch is that of all ranks: one collective in a train-mode forward, one in its backward.

    Every rank must call it in the same order; batch sizes may differ between ranks and may be 0. Running statistics
    come out bitwise the same on all ranks. Gradients of weight and bias are those of the rank's own outputs, to be
    summed or averaged by whoever does that for all parameters. Eval mode is F.batch_norm. use_global_batch_norm gives
    this class to existing batch norms.
    """

    local_class: type[_BatchNorm]
    """What the module was before: says which inputs it takes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        mean_C, squares_C, count = _global_moments(x.detach())
        if count < 2:
            raise UserError(
                f"batch norm needs more than one value per channel in the global batch, got {count} (input of shape "
                f"{tuple(x.shape)} on this rank); use a larger batch_size"
            )
        if self.track_running_stats:
            self._track(mean_C, squares_C / (count - 1))
        return _normalise(x, self.weight, self.bias, mean_C, squares_C / count, count, self.eps)

    @torch.no_grad()
    def _track(self, mean_C: Tensor, variance_C: Tensor) -> None:
        """The running statistics of F.batch_norm: an exponential average, or the plain one if momentum is None."""
        share = self.momentum or 0.0
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                share = 1.0 / int(self.num_batches_tracked)
        for running_C, value_C in ((self.running_mean, mean_C), (self.running_var, variance_C)):
            if running_C is not None:
                running_C.mul_(1 - share).add_(value_C.to(running_C.dtype), alpha=share)

    def _check_input_dim(self, input: Tensor) -> None:
        self.local_class._check_input_dim(self, input)


class GlobalBatchNormAct(GlobalBatchNorm):
    """timm's BatchNormAct2d, which also applies dropout and an activation, over the global batch."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def _global_class(name: str, local_class: type[_BatchNorm], on_cuda: bool) -> type[_BatchNorm]:
    """What does over the global batch what local_class does over its own. Raises UserError if nothing is known."""
    if local_class.forward is _BatchNorm.forward or local_class is nn.SyncBatchNorm:
        return nn.SyncBatchNorm if on_cuda else GlobalBatchNorm
    from timm.layers import BatchNormAct2d, SyncBatchNormAct

    if local_class.forward is BatchNormAct2d.forward or local_class is SyncBatchNormAct:
        return SyncBatchNormAct if on_cuda else GlobalBatchNormAct
    raise UserError(
        f"{name!r} is a {local_class.__name__}, a batch norm with a forward() of its own, for which no global batch "
        "statistics are known; use torch.nn.BatchNorm2d in its place, or one process"
    )


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Of all ranks' x: mean (C,) and sum of squares about it (C,), both float64, and number of values per channel.

    The corrected two-pass algorithm on each rank and the pairwise formula between ranks (Chan, Golub and LeVeque 1979)
    do not cancel where the mean is large. All ranks combine the same rows in the same order: the same bits come out.
    """
    x = x.to(_statistics_dtype(x))
    axes, shape = _other_axes(x)
    count = x.numel() // x.shape[1]
    rough_C = x.sum(axes) / max(count, 1)
    centred = x - rough_C.view(shape)
    shift_C = centred.sum(axes).double() / max(count, 1)  # what rounding took from the mean
    squares_C = (centred.square_().sum(axes).double() - count * shift_C.square()).clamp(min=0)
    own = torch.cat([rough_C.double() + shift_C, squares_C, squares_C.new_tensor([count])])
    means_RC, squares_RC, counts_R1 = gather_rows(own.unsqueeze(0)).split([len(rough_C), len(rough_C), 1], dim=1)
    total = counts_R1.sum()
    mean_C = (counts_R1 * means_RC).sum(0) / total.clamp(min=1)
    squares_C = (squares_RC + counts_R1 * (means_RC - mean_C).square()).sum(0)
    return mean_C, squares_C, int(total)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, differentiated through mean and variance on all ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, mean_C: Tensor, variance_C: Tensor,
        count: int, eps: float,
    ) -> Tensor:  # fmt: skip
        dtype = _statistics_dtype(x)
        scale_C, shift_C = (None if tensor is None else tensor.to(dtype) for tensor in (weight_C, bias_C))
        mean_C, variance_C = mean_C.to(dtype), variance_C.to(dtype)
        ctx.save_for_backward(x, weight_C, mean_C, (variance_C + eps).rsqrt())
        ctx.count = count
        return F.batch_norm(x, mean_C, variance_C, scale_C, shift_C, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Ioffe and Szegedy 2015, section 3, with the two sums over the batch taken over all ranks."""
        x, weight_C, mean_C, inverse_std_C = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        axes, shape = _other_axes(x)
        dy = dy.to(mean_C.dtype)
        centred = x.to(mean_C.dtype) - mean_C.view(shape)
        sums_2C = torch.stack([dy.sum(axes), (dy * centred).sum(axes)])
        dweight_C = (sums_2C[1] * inverse_std_C).to(weight_C.dtype) if wants_weight else None
        dbias_C = sums_2C[0].to(weight_C.dtype) if wants_bias else None
        if not wants_x:
            return None, dweight_C, dbias_C, None, None, None, None
        mean_dy_C, slope_C = sum_over_ranks(sums_2C) / ctx.count
        slope_C *= inverse_std_C.square()
        scale_C = inverse_std_C if weight_C is None else inverse_std_C * weight_C
        dx = centred.mul_(slope_C.view(shape)).add_(mean_dy_C.view(shape)).sub_(dy).mul_(-scale_C.view(shape))
        return dx.to(x.dtype), dweight_C, dbias_C, None, None, None, None


_normalise: Any = _Normalise.apply


def _statistics_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32: bfloat16 and float16 are too coarse for sums."""
    return torch.promote_types(x.dtype, torch.float32)


def _other_axes(x: Tensor) -> tuple[list[int], list[int]]:
    """All axes of x (B, C, ...) but the channels', and the shape that spreads a (C,) over x."""
    return [axis for axis in range(x.dim()) if axis != 1], [1, -1] + [1] * (x.dim() - 2)
