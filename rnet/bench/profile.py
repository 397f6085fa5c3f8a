"""Where a piece of code spends its time: the costliest operators on a CPU, the costliest kernels on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from rnet.bench.timing import now


def costliest(work: Callable[[], object], device: torch.device, count: int) -> list[dict[str, Any]]:
    """The `count` operators, or kernels on CUDA, that take most of one call of work, the costliest first.

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
