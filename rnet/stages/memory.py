"""The most memory that this process has held since it began a stage: in the host and, where it uses one, on the GPU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

_SELF = Path("/proc/self")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5): the peak resident size starts from the present one


def start_peak() -> None:
    """From here on; where the system does not let a process forget its peak, since the process started."""
    with suppress(OSError):
        (_SELF / "clear_refs").write_text(_RESET_PEAK)
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Bytes: "host" (resident, where /proc tells) and "device" (as torch allocated it, with CUDA in use)."""
    found: dict[str, int] = {}
    with suppress(OSError, StopIteration):
        lines = (_SELF / "status").read_text().splitlines()
        found["host"] = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    if torch.cuda.is_initialized():
        found["device"] = torch.cuda.max_memory_allocated()
    return found
