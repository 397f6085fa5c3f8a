"""Philox4x32-10: random words as a pure function of a key and a counter, the same bits on every device.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Shapes: B samples, N words per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnet.kernels.dispatch import on_cuda

# Round multipliers and key increments of Philox4x32, table 2 of the paper.
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF
# Counters worked on at once on a CPU: the few int64 temporaries then stay in its cache.
_CPU_COUNTERS = 1 << 16


def philox_words(sample_ids_B: Tensor, step: Tensor, key: int, count: int, *, fractions: bool) -> Tensor:
    """(B, count) words: int64 in [0, 2^32), or with fractions their upper 24 bits as float32 multiples of 2^-24.

    sample_ids_B: int64. step: 0-dim int64 in [0, 2^32) on the same device. key: 64 bits. Word e of a sample is word
    e mod 4 of the block with counter (e div 4, sample low, sample high, step).
    """
    return philox_op(sample_ids_B, step, key & _WORD, key >> 32, count, fractions)


def _reference(sample_ids_B: Tensor, step: Tensor, key_low: int, key_high: int, count: int, fractions: bool) -> Tensor:
    ids_B1 = sample_ids_B.view(-1, 1)
    blocks = -(-count // 4)
    assert blocks <= _WORD, f"{count} draws per sample do not fit a 32-bit block counter"
    dtype = torch.float32 if fractions else torch.int64
    out_BN4 = torch.empty(len(ids_B1), blocks, 4, dtype=dtype, device=ids_B1.device)
    block_1N = torch.arange(blocks, device=ids_B1.device).view(1, -1)
    at_once = _CPU_COUNTERS if ids_B1.device.type == "cpu" else max(out_BN4.numel(), 1)
    columns = max(min(at_once, blocks), 1)
    rows = max(at_once // columns, 1)
    for top in range(0, len(ids_B1), rows):
        ids = ids_B1[top : top + rows]
        for left in range(0, blocks, columns):
            counter = (block_1N[:, left : left + columns], ids & _WORD, (ids >> 32) & _WORD, step.view(1, 1))
            for index, word in enumerate(philox4x32(counter, (key_low, key_high))):
                out = out_BN4[top : top + rows, left : left + columns, index]
                out.copy_(word >> 8 if fractions else word)
    words_BN = out_BN4.view(len(ids_B1), 4 * blocks)[:, :count].contiguous()
    return words_BN.mul_(2.0**-24) if fractions else words_BN


philox_op = torch.library.custom_op("rnet::philox", _reference, mutates_args=())


def by_triton(sample_ids_B: Tensor, step: Tensor, key_low: int, key_high: int, count: int, fractions: bool) -> Tensor:
    """As the reference, on CUDA or under Triton's interpreter."""
    from rnet.kernels.triton.philox import words

    return words(sample_ids_B, step, key_low, key_high, count, fractions)


philox_op.register_kernel("cuda")(on_cuda(_reference, by_triton))


@philox_op.register_fake
def _fake(sample_ids_B, step, key_low, key_high, count, fractions):  # type: ignore[no-untyped-def]
    dtype = torch.float32 if fractions else torch.int64
    return sample_ids_B.new_empty((sample_ids_B.shape[0], count), dtype=dtype)


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """The four 32-bit output words of Philox4x32-10 as int64 tensors in [0, 2^32).

    counter: int64 tensors of 32-bit values that broadcast against each other. key: two 32-bit integers.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    shape = torch.broadcast_shapes(*(word.shape for word in counter))
    for _ in range(_ROUNDS):
        # The product of two 32-bit words may exceed 2^63: int64 wraps around and keeps all 64 bits. The odd words
        # (low halves) stay unmasked; only what is multiplied next must be clean. Early rounds are still broadcast.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = _mix(p1, c1, k0, shape), _mix(p0, c3, k1, shape)
        c1, c3 = p1, p0
        k0, k1 = (k0 + _INCREMENTS[0]) & _WORD, (k1 + _INCREMENTS[1]) & _WORD
    return tuple((word & _WORD).expand(shape) for word in (c0, c1, c2, c3))


def _mix(product: Tensor, other: Tensor, key: int, shape: torch.Size) -> Tensor:
    """High half of the product, xor the other word, xor the key: a clean 32-bit word."""
    high = product >> 32
    high = high.bitwise_xor_(other) if high.shape == shape else high ^ other
    return high.bitwise_xor_(key).bitwise_and_(_WORD)
