"""Where the time before the first step goes: importing, reading data, preparing, and the first step itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rnet.durations import duration

PARTS = ("importing", "reading data", "preparing", "first step")
_LEAST_SECONDS = 0.05


class Startup:
    """`with startup.part("reading data"): ...`; `told()` gives the parts, once, when the first step is done.

    Time that belongs to no part is called preparing.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._parts: dict[str, float] = {}

    def imported(self) -> None:
        """All that a command needs is imported; counts from the start of the process, where the system tells it."""
        self._since = _process_began()
        self._parts = {"importing": time.monotonic() - self._since}

    def begin(self) -> None:
        """A stage begins; the first one of a command began with the process."""
        if self._since is None:
            self._since, self._parts = time.monotonic(), {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time of the body to one of PARTS."""
        began = time.monotonic()
        yield
        self._parts[name] = self._parts.get(name, 0.0) + time.monotonic() - began

    def told(self) -> dict[str, float]:
        """Seconds by part, in order, and under "total" of all; empty where nothing began, or it was told already."""
        if self._since is None:
            return {}
        total = time.monotonic() - self._since
        first = {"first step": self._parts.pop("first step", 0.0)}
        rest = {"preparing": total - sum(self._parts.values()) - first["first step"]}
        found = {name: round(s, 2) for name, s in (self._parts | rest | first).items() if s >= _LEAST_SECONDS}
        self._since = None
        return {**found, "total": round(total, 2)}


def in_words(parts: dict[str, float]) -> str:
    """first step after 12 s (importing 8 s, reading data 1 s, preparing 1 s, first step 2 s)."""
    shown = [f"{name} {_seconds(parts[name])}" for name in PARTS if name in parts]
    return f"first step after {_seconds(parts['total'])} ({', '.join(shown)})"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _process_began() -> float:
    """When this process began, on the clock of time.monotonic; now where the system does not tell."""
    with suppress(OSError, IndexError, ValueError, AttributeError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - age
    return time.monotonic()


startup = Startup()
"""Of this process."""
