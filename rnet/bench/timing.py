"""The clock of the benchmarks, and how far its readings spread."""

from __future__ import annotations

import statistics
import time

import torch


def now(device: torch.device) -> float:
    """Seconds of a clock that only differences of mean something, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interquartile_range(values: list[float]) -> float:
    """How far the middle half of the values spreads, in their unit; 0 for a single one."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return high - low
