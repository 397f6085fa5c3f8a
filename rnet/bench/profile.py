"""Where a piece of code spends its time: the costliest operators on a CPU, the costliest kernels on a GPU."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from rnet.bench.timing import now

_KINDS = (
    ("latent step", r"latent_step"),
    ("fused by the compiler", r"^triton_"),
    ("attention", r"sdpa|attention|flash|fmha|cudnn::fusion"),
    ("convolutions", r"conv(?!ert)|fprop|dgrad|wgrad|winograd"),
    ("matrix products", r"gemm|gemv|nvjet|splitK|mm_?$|linear|matmul"),
    ("copies, casts and fills", r"copy|memcpy|memset|fill|zero_"),
)


def by_kind(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What costliest() found, summed up by what it is, told by names: kind, ms and share, the largest first."""
    sums: dict[str, float] = defaultdict(float)
    for row in found:
        kind = next((kind for kind, pattern in _KINDS if re.search(pattern, row["name"], re.IGNORECASE)), "other")
        sums[kind] += row["ms"]
    total = sum(sums.values()) or 1.0
    return [
        {"kind": kind, "ms": ms, "share": ms / total} for kind, ms in sorted(sums.items(), key=lambda item: -item[1])
    ]


def costliest(work: Callable[[], object], device: torch.device, count: int | None = None) -> list[dict[str, Any]]:
    """The `count` operators, or kernels on CUDA, that take most of one call of work, the costliest first; None: all.

    Each: name, calls, ms (without what it calls), and share of what all of them take. Watching slows the call down, so
    shares mean more than milliseconds.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it complains on standard error of a missing GPU
    now(device)  # what was given to the device before is not work's
    with profile(activities=activities, acc_events=True) as watched:
        work()
        now(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [event for event in watched.key_averages() if event.device_type == kind and not event.is_user_annotation]
    spent = {id(event): (event.self_device_time_total if on_gpu else event.self_cpu_time_total) for event in found}
    total = sum(spent.values()) or 1.0
    found.sort(key=lambda event: spent[id(event)], reverse=True)
    return [
        {"name": event.key, "calls": event.count, "ms": spent[id(event)] / 1000, "share": spent[id(event)] / total}
        for event in found[:count]
    ]
