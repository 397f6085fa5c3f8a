"""Runs functions in two real processes joined by gloo: one start for many cases, which pass or fail one by one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

Case = Callable[[int], None]
"""Called with the rank, on both ranks at the same time."""


def failures(cases: Mapping[str, Case], folder: Path) -> dict[str, str]:
    """The tracebacks, by case, of those that failed on any rank. cases must be a module's global: it is pickled."""
    torch.multiprocessing.spawn(_work, (cases, folder), nprocs=2)
    found: dict[str, str] = {}
    for rank in range(2):
        report: dict[str, Any] = torch.load(folder / f"rank{rank}.pt", weights_only=True)
        assert set(report) == set(cases)
        found |= {name: f"rank {rank}: {text}" for name, text in report.items() if text}
    return found


def _work(rank: int, cases: Mapping[str, Case], folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = (folder / "meeting").as_uri()  # a file, because a port that is free now may not be free in a second
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    report = {}
    for name, case in cases.items():
        torch.manual_seed(0)
        try:
            case(rank)
            report[name] = ""
        except Exception:
            report[name] = traceback.format_exc()
        ok = torch.tensor(float(not report[name]))
        dist.all_reduce(ok)  # neither goes on alone
    torch.save(report, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
