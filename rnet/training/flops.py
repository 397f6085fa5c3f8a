"""FLOPs, counted and not measured: the same on every machine."""

from __future__ import annotations

from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(work: Callable[[], object]) -> int:
    """FLOPs of what work does: 2 for each multiplication, with its addition, of matrix products and convolutions.

    Attention counts as its matrix products, which fused kernels for CPUs hide from the counter.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()
