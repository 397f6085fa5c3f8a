"""Philox4x32-10 in registers: a program writes the words of a run of counters of one sample."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

BLOCKS = 256
"""Counters per program; each gives four words."""


@triton.jit(do_not_specialize=["key_low", "key_high"])
def words_kernel(  # type: ignore[no-untyped-def]
    ids_ptr,  # (B,) int64
    step_ptr,  # () int64
    out_ptr,  # (B, count), contiguous
    key_low,
    key_high,
    count,
    tiles,
    FRACTIONS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    program = tl.program_id(0)
    b = (program // tiles).to(tl.int64)
    block = (program % tiles) * BLOCKS + tl.arange(0, BLOCKS)
    sample = tl.load(ids_ptr + b)
    step = tl.load(step_ptr)
    key = key_low.to(tl.uint64) | (key_high.to(tl.uint64) << 32)
    zero = tl.zeros([BLOCKS], tl.uint32)
    low = zero + (sample & 0xFFFFFFFF).to(tl.uint32)
    high = zero + ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(key, block.to(tl.uint32), low, high, zero + step.to(tl.uint32))
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), [4 * BLOCKS])  # in the order w0, w1, w2, w3
    element = (program % tiles).to(tl.int64) * (4 * BLOCKS) + tl.arange(0, 4 * BLOCKS)
    if FRACTIONS:
        values = (words >> 8).to(tl.float32) * (1.0 / 16777216.0)
    else:
        values = words.to(tl.int64)
    tl.store(out_ptr + b * count + element, values, mask=element < count)


def words(sample_ids_B: Tensor, step: Tensor, key_low: int, key_high: int, count: int, fractions: bool) -> Tensor:
    """(B, count) words as rnet.kernels.philox describes them, on CUDA or under Triton's interpreter."""
    out_BN = torch.empty(
        len(sample_ids_B), count, dtype=torch.float32 if fractions else torch.int64, device=sample_ids_B.device
    )
    tiles = triton.cdiv(count, 4 * BLOCKS)
    if out_BN.numel() == 0:
        return out_BN
    with torch.cuda.device_of(sample_ids_B):
        words_kernel[(len(sample_ids_B) * tiles,)](
            sample_ids_B.contiguous(), step, out_BN, key_low, key_high, count, tiles,
            FRACTIONS=fractions, BLOCKS=BLOCKS, num_warps=4,
        )  # fmt: skip
    return out_BN
