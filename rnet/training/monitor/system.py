"""What the process takes of the machine at the moment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

_MIB = 2**20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def system_load(device: torch.device) -> dict[str, float]:
    """memory_mib: resident memory of this process, where /proc tells; on CUDA also gpu_memory_mib, what torch has
    allocated, and gpu_utilisation_percent, where NVIDIA's library (nvidia-ml-py) tells.
    """
    found: dict[str, float] = {}
    with suppress(OSError, IndexError, ValueError):
        found["memory_mib"] = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / _MIB
    if device.type == "cuda":
        found["gpu_memory_mib"] = torch.cuda.memory_allocated(device) / _MIB
        with suppress(ModuleNotFoundError, RuntimeError):  # the library is not a dependency, and not on every machine
            found["gpu_utilisation_percent"] = float(torch.cuda.utilization(device))
    return found
