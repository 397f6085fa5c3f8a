"""How long the parts of a step take, without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Phases:
    """`with phases("data"): ...` adds the time of its body to that phase; `read()` takes what has been added up.

    On a CPU it is the time on the clock. On CUDA it is what the stream took between two events: the body's own work on
    the device, and what the device waited for meanwhile. Phases follow each other; one is not opened within another.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = self._now()
        try:
            yield
        finally:
            if self._cuda:
                self._events.append((name, began, self._now()))
            else:
                self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - began

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the last reading, 0 for one that was not entered; waits for the device."""
        for name, began, ended in self._events:
            ended.synchronize()
            self._seconds[name] = self._seconds.get(name, 0.0) + began.elapsed_time(ended) / 1000
        self._events.clear()
        found = self._seconds
        self._seconds = dict.fromkeys(found, 0.0)
        return found

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
