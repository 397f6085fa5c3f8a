"""One latent step of RemovalNet but for the network: sign update, the next channel shuffle and the next distance.

A step is: shuffle z1, then move it against the sign of the gradient of [cross-entropy - weight * log ||z1 - z||]
(Yao et al. 2023). The network reads z1 shuffled, so the shuffle must lie in memory
before the network runs. Hence the op starts after the network, on a z1 that is shuffled already, and ends with the NEXT
step's shuffle, gathered where it writes: z1, z and the gradient are read once, the next z1 is written once. Gathering
the old permutation where it reads would leave an unshuffled z1 behind and cost a second pass before the network. The
result is a new tensor: in place, a channel could be overwritten before its other reader has read it.

Shapes: B samples, C channels on channel_axis (1, or the last), any positions on the other axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.kernels.checks import (
    arithmetic_type,
    check_floats,
    check_indices,
    check_range_on_cpu,
    check_same_device,
    check_shape,
)
from rnet.kernels.dispatch import on_cuda

_OP = "latent_step"
_FEW = 8
"""On CPUs, where fewer than one in so many channels move, they alone are gathered: gather takes each element singly."""


def latent_step(
    z1: Tensor,
    z: Tensor,
    gradient: Tensor,
    squared: Tensor,
    next_perm_BC: Tensor | None = None,
    *,
    channel_axis: int,
    weight: float,
    step_size: float,
    samples: int = 1,
) -> tuple[Tensor, Tensor]:
    """(next z1, its squared distance from z); next z1 = shuffle(z1 - step_size * sign(slope)), where
    slope = gradient - weight * samples / squared * (z1 - z): that of a mean over samples, times their number.

    z1: the latent as the network saw it, shuffled already. z: the features it moves away from. gradient: of the
    cross-entropy at z1, summed over as many samples as are given. All of one shape, in any mix of bfloat16, float16,
    float32 and float64; float32 arithmetic (float64 if one is), rounded alike everywhere. squared: 0-dim, ||z1 - z||^2
    over the global batch; where it is 0, z1 stays, as 0/0 has no sign. next_perm_BC: int64, the next step's shuffle,
    out[b, c] = moved[b, perm[b, c]]; None for one that moves nothing.

    The next z1 has z1's type, and is channels_last if z1 is, else contiguous. Its squared distance is a 0-dim sum over
    this process's samples of (next z1 - z)^2, as stored, in the arithmetic's type. Gradients flow to z1 and z (the sign
    is constant). On a CPU, raises UserError for a channel that does not exist; on CUDA, where looking would wait for
    the GPU, its values become NaN.
    """
    axis = channel_axis % max(z1.ndim, 1)
    check_floats(_OP, z1=z1, z=z, gradient=gradient, squared=squared)
    check_same_device(_OP, z1=z1, z=z, gradient=gradient, squared=squared)
    check_shape(_OP, "z", z, tuple(z1.shape), "as z1")
    check_shape(_OP, "gradient", gradient, tuple(z1.shape), "as z1")
    check_shape(_OP, "squared", squared, (), "one norm over the global batch")
    if z1.ndim < 2 or z1.numel() == 0:
        raise UserError(f"{_OP}: z1 has shape {tuple(z1.shape)}; give (samples, channels, ...) and no empty axis")
    if z1[0].numel() >= 2**31:
        raise UserError(f"{_OP}: one sample of z1 has {z1[0].numel()} elements; give fewer than 2^31")
    if axis not in (1, z1.ndim - 1) or not -z1.ndim <= channel_axis < z1.ndim:
        raise UserError(f"{_OP}: channel_axis={channel_axis}; give 1 or -1, the last axis of z1")
    if next_perm_BC is not None:
        check_indices(_OP, next_perm_BC=next_perm_BC)
        check_same_device(_OP, z1=z1, next_perm_BC=next_perm_BC)
        check_shape(_OP, "next_perm_BC", next_perm_BC, (z1.shape[0], z1.shape[axis]), "samples and channels of z1")
    if samples < 1:
        raise UserError(f"{_OP}: samples={samples}; give 1 or more")
    return latent_step_op(z1, z, gradient, squared, next_perm_BC, axis, weight, step_size, samples)


def _reference(
    z1: Tensor,
    z: Tensor,
    gradient: Tensor,
    squared: Tensor,
    next_perm_BC: Tensor | None,
    channel_axis: int,
    weight: float,
    step_size: float,
    samples: int,
) -> tuple[Tensor, Tensor]:
    """In torch. Squares are summed: torch's norm of many float32 numbers on a CPU is up to 0.2 % low."""
    dtype = arithmetic_type(z1, z, gradient)
    if next_perm_BC is not None:
        check_range_on_cpu(_OP, "next_perm_BC", next_perm_BC, z1.shape[channel_axis])
    out = _empty_next(z1)
    away = torch.sub(z1.to(dtype), z.to(dtype), out=torch.empty_like(out, dtype=dtype))
    away.mul_(weight * samples / squared.to(dtype))
    slope = torch.sub(gradient.to(dtype), away, out=away)
    torch.sub(z1.to(dtype), slope.sign_().mul_(step_size), out=away)
    if next_perm_BC is None:
        out.copy_(away)
    else:
        _shuffle(away.to(out.dtype), next_perm_BC, channel_axis, out)
    return out, torch.sub(out.to(dtype), z.to(dtype), out=away).square_().sum()


latent_step_op = torch.library.custom_op("rnet::latent_step", _reference, mutates_args=())


def by_triton(
    z1: Tensor,
    z: Tensor,
    gradient: Tensor,
    squared: Tensor,
    next_perm_BC: Tensor | None,
    channel_axis: int,
    weight: float,
    step_size: float,
    samples: int,
) -> tuple[Tensor, Tensor]:
    """As the reference, on CUDA or under Triton's interpreter; a channel that does not exist becomes NaN."""
    from rnet.kernels.triton.latent_step import launch

    out = _empty_next(z1)
    return out, launch(z1, z, gradient, squared, next_perm_BC, channel_axis, weight, step_size, samples, out)


latent_step_op.register_kernel("cuda")(on_cuda(_reference, by_triton))


@latent_step_op.register_fake
def _fake(z1, z, gradient, squared, next_perm_BC, channel_axis, weight, step_size, samples):  # type: ignore[no-untyped-def]
    return _empty_next(z1), z1.new_empty((), dtype=arithmetic_type(z1, z, gradient))


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, z, _, _, next_perm_BC, ctx.channel_axis, *_ = inputs
    ctx.save_for_backward(output[0], z, next_perm_BC)


def _backward(ctx, grad_out, grad_squared):  # type: ignore[no-untyped-def]
    out, z, next_perm_BC = ctx.saved_tensors
    pull = 2 * grad_squared * (out - z)
    grad_z1 = grad_out + pull
    if next_perm_BC is not None:
        inverse_BC = next_perm_BC.argsort(dim=1)
        grad_z1 = _gather_channels(grad_z1, inverse_BC, ctx.channel_axis, torch.empty_like(grad_z1))
    return grad_z1.to(out.dtype), -pull.to(z.dtype), *(None,) * 7


latent_step_op.register_autograd(_backward, setup_context=_setup_context)


def _empty_next(z1: Tensor) -> Tensor:
    """Uninitialised memory for the next z1: channels_last if z1 is and is not contiguous, else contiguous."""
    for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if z1.ndim == ndim and not z1.is_contiguous() and z1.is_contiguous(memory_format=memory_format):
            return torch.empty(z1.shape, dtype=z1.dtype, device=z1.device, memory_format=memory_format)
    return torch.empty(z1.shape, dtype=z1.dtype, device=z1.device)


def _shuffle(z: Tensor, perm_BC: Tensor, channel_axis: int, out: Tensor) -> None:
    """As _gather_channels; on a CPU quickly where few channels move."""
    if perm_BC.device.type == "cpu":
        b_M, c_M = (perm_BC != torch.arange(perm_BC.shape[1])).nonzero(as_tuple=True)
        if _FEW * len(b_M) < perm_BC.numel():
            rows, sources = out.copy_(z).movedim(channel_axis, 1), z.movedim(channel_axis, 1)
            rows[b_M, c_M] = sources[b_M, perm_BC[b_M, c_M]]
            return
    _gather_channels(z, perm_BC, channel_axis, out)


def _gather_channels(z: Tensor, perm_BC: Tensor, channel_axis: int, out: Tensor) -> Tensor:
    """out[b, .., c, ..] = z[b, .., perm_BC[b, c], ..], written to out and returned."""
    shape = [1] * z.ndim
    shape[0], shape[channel_axis] = perm_BC.shape
    return torch.gather(z, channel_axis, perm_BC.view(shape).expand_as(z), out=out)
