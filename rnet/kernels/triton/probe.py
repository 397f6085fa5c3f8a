"""Whether Triton works here: one small kernel, compiled and run."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor


@triton.jit
def double_kernel(x_ptr, out_ptr, N, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    n = tl.arange(0, BLOCK)
    tl.store(out_ptr + n, 2 * tl.load(x_ptr + n, mask=n < N), mask=n < N)


def doubled(x_N: Tensor) -> Tensor:
    """2 x for a few numbers, by Triton."""
    out_N = torch.empty_like(x_N)
    double_kernel[(1,)](x_N, out_N, len(x_N), BLOCK=triton.next_power_of_2(len(x_N)))
    return out_N
