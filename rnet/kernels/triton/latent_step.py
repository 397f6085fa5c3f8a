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
WIDEST = {"channels": 128, "positions": 256}
"""Neighbours in memory in a row of a tile."""


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
    pull,  # weight * samples
    step_size,
    HAS_PERM: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    WHOLE_ROWS: tl.constexpr,  # INNER divides its axis
    OUTER: tl.constexpr,
    INNER: tl.constexpr,
):
    program = tl.program_id(0)
    tiles_across = tl.cdiv(C if CHANNELS_INNER else S, INNER)
    tiles = tl.cdiv(S if CHANNELS_INNER else C, OUTER) * tiles_across
    b = (program // tiles).to(tl.int64)
    tile = program % tiles
    row = ((tile // tiles_across) * OUTER + tl.arange(0, OUTER))[:, None]
    inner = ((tile % tiles_across) * INNER + tl.arange(0, INNER))[None, :]
    rows = S if CHANNELS_INNER else C
    outer = tl.minimum(row, rows - 1)  # the last row once more, instead of a mask: the same is written again
    if CHANNELS_INNER:
        c, s = inner, outer
        inside = None if WHOLE_ROWS else c < C
    else:
        c, s = outer, inner
        inside = None if WHOLE_ROWS else s < S
    z_row = z_ptr + b * z_b + s * z_s
    z_here = tl.load(z_row + c * z_c, mask=inside).to(tl.float32)
    if HAS_PERM:
        wanted = tl.load(perm_ptr + b * C + c, mask=inside if CHANNELS_INNER else None)
        exists = (wanted >= 0) & (wanted < C)
        source = tl.where(exists, wanted, 0).to(tl.int32)
        z = tl.load(z_row + source * z_c, mask=inside).to(tl.float32)
    else:
        source = c
        z = z_here
    z1 = tl.load(z1_ptr + b * z1_b + s * z1_s + source * z1_c, mask=inside).to(tl.float32)
    gradient_row = gradient_ptr + b * gradient_b + s * gradient_s
    gradient = tl.load(gradient_row + source * gradient_c, mask=inside).to(tl.float32)
    # Rounded as torch does it (and launched without fused multiply-adds), so that the same signs come out.
    slope = gradient - (z1 - z) * tl.div_rn(pull, tl.load(squared_ptr).to(tl.float32))
    moved = z1 - tl.where(slope > 0, step_size, tl.where(slope < 0, -step_size, 0.0))
    if HAS_PERM:
        moved = tl.where(exists, moved, float("nan"))
    moved = moved.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + b * out_b + s * out_s + c * out_c, moved, mask=inside)
    off = moved.to(tl.float32) - z_here
    counted = row < rows if WHOLE_ROWS else (row < rows) & inside
    off = tl.where(counted, off, 0.0)
    tl.store(squares_ptr + program, tl.sum(off * off))


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
    INNER = _width(across, WIDEST["channels" if channels_inner else "positions"])
    OUTER = min(triton.next_power_of_2(down), TILE // INNER)
    programs = B * triton.cdiv(across, INNER) * triton.cdiv(down, OUTER)
    squares = torch.empty(programs, dtype=torch.float32, device=z1.device)
    perm_BC = squares if next_perm_BC is None else next_perm_BC.contiguous()
    with torch.cuda.device_of(z1):
        latent_step_kernel[(programs,)](
            z1_BCS, z_BCS, gradient_BCS, squared, perm_BC, out_BCS, squares, C, S,
            *z1_BCS.stride(), *z_BCS.stride(), *gradient_BCS.stride(), *out_BCS.stride(),
            weight * samples, step_size,
            HAS_PERM=next_perm_BC is not None, CHANNELS_INNER=channels_inner, WHOLE_ROWS=across % INNER == 0,
            OUTER=OUTER, INNER=INNER, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return squares.sum()


def _width(count: int, widest: int) -> int:
    """Of a tile's rows: a power of two that divides them, else the widest of those that leave hardly more idle."""
    if count <= 32:
        return int(triton.next_power_of_2(count))
    divisor = min(count & -count, widest)
    if divisor >= 32:
        return divisor
    padded = {2**power: triton.cdiv(count, 2**power) * 2**power for power in range(5, widest.bit_length())}
    return max(width for width, size in padded.items() if 16 * size <= 17 * min(padded.values()))


def _as_BCS(tensor: Tensor, channel_axis: int) -> Tensor:
    """A view as (samples, channels, positions) wherever strides allow one and 32-bit offsets reach, else a copy."""
    view = tensor.movedim(channel_axis, 1).flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(2)
    reach = sum((size - 1) * stride for size, stride in zip(view.shape[1:], view.stride()[1:], strict=True))
    return view if reach < 2**31 else view.contiguous()
