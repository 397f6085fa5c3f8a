"""The latent step in one pass over memory: each program moves and gathers one tile of one sample.

Shapes: B samples, C channels, S positions; a tile is (outer, inner) in the order of the output's memory.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

TILE = 2048
"""Elements per program: 16 for each of 128 threads."""
NEIGHBOURS = 128
"""Channels in a row of a tile whose channels are neighbours in memory."""


@triton.jit
def _divided(values, divisor):  # type: ignore[no-untyped-def]
    """values / divisor, one number, rounded to nearest, in a few instructions for each value.

    The product with the reciprocal, itself rounded to nearest, misses by less than a unit in the last place, and its
    exact remainder puts it right (Markstein 1990).
    """
    reciprocal = tl.div_rn(1.0, divisor)
    quotient = values * reciprocal
    exact = tl.fma(tl.fma(-quotient, divisor, values), reciprocal, quotient)
    return tl.where(exact == exact, exact, quotient)  # an infinite quotient leaves no remainder


@triton.jit
def _channels(row_ptr, c, source, stride, inside, readable, other, NEAR: tl.constexpr):  # type: ignore[no-untyped-def]
    """The source of each channel. NEAR: what stays where it is is read at once, what does not, one by one."""
    if NEAR:
        here = tl.load(row_ptr + c * stride, mask=inside, other=0.0).to(tl.float32)
        there = tl.load(row_ptr + source * stride, mask=readable & (source != c), other=other).to(tl.float32)
        return tl.where(source == c, here, there)
    return tl.load(row_ptr + source * stride, mask=readable, other=other).to(tl.float32)


@triton.jit
def latent_step_kernel(  # type: ignore[no-untyped-def]
    z1_ptr,  # (B, C, S), strides z1_b, z1_c, z1_s, and so on
    z_ptr,  # (B, C, S)
    gradient_ptr,  # (B, C, S)
    squared_ptr,  # ()
    perm_ptr,  # (B, C), contiguous; not read without HAS_PERM
    out_ptr,  # (B, C, S)
    squares_ptr,  # (programs,)
    C,
    S,
    z1_b,
    z1_c,
    z1_s,
    z_b,
    z_c,
    z_s,
    gradient_b,
    gradient_c,
    gradient_s,
    out_b,
    out_c,
    out_s,
    weight,
    step_size,
    samples,
    HAS_PERM: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    OUTER: tl.constexpr,
    INNER: tl.constexpr,
):
    program = tl.program_id(0)
    tiles_across = tl.cdiv(C if CHANNELS_INNER else S, INNER)
    tiles = tl.cdiv(S if CHANNELS_INNER else C, OUTER) * tiles_across
    b = (program // tiles).to(tl.int64)
    tile = program % tiles
    outer = ((tile // tiles_across) * OUTER + tl.arange(0, OUTER))[:, None]
    inner = ((tile % tiles_across) * INNER + tl.arange(0, INNER))[None, :]
    if CHANNELS_INNER:
        c, s = inner, outer
    else:
        c, s = outer, inner
    inside = (c < C) & (s < S)
    z_row = z_ptr + b * z_b + s * z_s
    z_here = tl.load(z_row + c * z_c, mask=inside, other=0.0).to(tl.float32)
    if HAS_PERM:
        source = tl.load(perm_ptr + b * C + c, mask=c < C, other=0)
        readable = inside & (source >= 0) & (source < C)
        elsewhere = readable & (source != c)
        z_there = tl.load(z_row + source * z_c, mask=elsewhere, other=0.0).to(tl.float32)
        z_source = tl.where(elsewhere, z_there, z_here)
    else:
        source = c
        readable = inside
        z_source = z_here
    NEAR: tl.constexpr = HAS_PERM and CHANNELS_INNER
    z1 = _channels(z1_ptr + b * z1_b + s * z1_s, c, source, z1_c, inside, readable, float("nan"), NEAR)
    gradient_row = gradient_ptr + b * gradient_b + s * gradient_s
    gradient = _channels(gradient_row, c, source, gradient_c, inside, readable, 0.0, NEAR)
    squared = tl.load(squared_ptr).to(tl.float32)
    # Rounded as torch does it (and launched without other fused multiply-adds), so that the same signs come out.
    slope = _divided(gradient, samples) - _divided(z1 - z_source, squared) * weight
    shift = tl.where(slope > 0, step_size, tl.where(slope < 0, -step_size, 0.0))
    moved = (z1 - shift).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + b * out_b + c * out_c + s * out_s, moved, mask=inside)
    off = tl.where(inside, moved.to(tl.float32) - z_here, 0.0)
    tl.store(squares_ptr + program, tl.sum(tl.sum(off * off, axis=1), axis=0))


def launch(
    z1: Tensor,
    z: Tensor,
    gradient: Tensor,
    squared: Tensor,
    next_perm_BC: Tensor | None,
    channel_axis: int,
    weight: float,
    step_size: float,
    samples: int,
    out: Tensor,
) -> Tensor:
    """The next z1 written to out, and its squared distance; for types up to float32, on CUDA or interpreted."""
    z1_BCS, z_BCS, gradient_BCS = (_as_BCS(tensor, channel_axis) for tensor in (z1, z, gradient))
    out_BCS = _as_BCS(out, channel_axis)
    assert out_BCS.data_ptr() == out.data_ptr()
    B, C, S = out_BCS.shape
    channels_inner = out_BCS.stride(1) == 1 and C > 1
    across, down = (C, S) if channels_inner else (S, C)
    INNER = _width(across, NEIGHBOURS if channels_inner else TILE // 2)
    OUTER = min(triton.next_power_of_2(down), TILE // INNER)
    programs = B * triton.cdiv(across, INNER) * triton.cdiv(down, OUTER)
    squares = torch.empty(programs, dtype=torch.float32, device=z1.device)
    perm_BC = squares if next_perm_BC is None else next_perm_BC.contiguous()
    with torch.cuda.device_of(z1):
        latent_step_kernel[(programs,)](
            z1_BCS, z_BCS, gradient_BCS, squared, perm_BC, out_BCS, squares, C, S,
            *z1_BCS.stride(), *z_BCS.stride(), *gradient_BCS.stride(), *out_BCS.stride(),
            weight, step_size, float(samples),
            HAS_PERM=next_perm_BC is not None, CHANNELS_INNER=channels_inner, OUTER=OUTER, INNER=INNER,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return squares.sum()


def _width(count: int, largest: int) -> int:
    """Of a tile's rows of neighbours: the widest power of two that leaves hardly more of them idle than any other."""
    if count <= 32:
        return int(triton.next_power_of_2(count))
    padded = {2**power: triton.cdiv(count, 2**power) * 2**power for power in range(5, largest.bit_length())}
    return max(width for width, size in padded.items() if 16 * size <= 17 * min(padded.values()))


def _as_BCS(tensor: Tensor, channel_axis: int) -> Tensor:
    """A view as (samples, channels, positions) wherever strides allow one and 32-bit offsets reach, else a copy."""
    view = tensor.movedim(channel_axis, 1).flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(2)
    reach = sum((size - 1) * stride for size, stride in zip(view.shape[1:], view.stride()[1:], strict=True))
    return view if reach < 2**31 else view.contiguous()
