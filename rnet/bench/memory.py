"""Peak memory of a piece of code: CUDA's own count, or on a CPU the process's resident size, sampled from a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_PAGE = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Inside, memory is watched; after, the yielded dict's "mb" is how many MiB the peak lay above the start."""
    found = {"mb": 0.0}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        torch.cuda.synchronize(device)
        found["mb"] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    before = resident_bytes()
    peak, stop = [before], threading.Event()

    def sample() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], resident_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        found["mb"] = (max(peak[0], resident_bytes()) - before) / 2**20


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
