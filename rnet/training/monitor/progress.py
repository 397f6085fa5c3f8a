"""Progress on stderr: a bar on a terminal, a line now and then in the log of a job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from rnet.durations import duration

SHORT_NAMES = {
    "loss/total": "loss", "fidelity/accuracy": "accuracy", "fidelity/agreement": "agreement",
    "evasion/matching_rate": "matching",
}  # fmt: skip
"""Of the few curves that are worth watching on a terminal."""


class Progress(Protocol):
    """Shows how far a run is; values are the latest numbers worth watching, by short name."""

    def advance(self, step: int, values: dict[str, float]) -> None:
        """`step` steps are done; may be called again for the same step with more values."""
        ...

    def close(self) -> None: ...


def progress_on_stderr(label: str, total_steps: int, start_step: int = 0, every_seconds: float = 10.0) -> Progress:
    """A bar if stderr is a terminal, else lines at least every_seconds apart."""
    if sys.stderr.isatty():
        return Bar(label, total_steps, start_step)
    return Lines(label, total_steps, start_step, every_seconds)


class Bar:
    """A bar that starts at start_step, with the time that is left; what is logged meanwhile stands above it."""

    def __init__(self, label: str, total_steps: int, start_step: int) -> None:
        self._values: dict[str, float] = {}
        self._bar = RichProgress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[values]}"),
            console=Console(file=sys.stderr), refresh_per_second=2, speed_estimate_period=60,
        )  # fmt: skip
        self._task = self._bar.add_task(label, total=total_steps, completed=start_step, values="")
        self._bar.start()

    def advance(self, step: int, values: dict[str, float]) -> None:
        self._values |= values
        self._bar.update(self._task, completed=step, values="  ".join(_shown(self._values)))

    def close(self) -> None:
        self._bar.stop()


class Lines:
    """Plain lines: the first advance, then at most one per every_seconds, and the last state when it is closed.

    For example `removalnet  step 300/1000  loss 0.412  accuracy 0.93  12.3 steps/s  57 s left`. The speed is that since
    the line before, and that of the whole run in the last line.
    """

    def __init__(self, label: str, total_steps: int, start_step: int, every_seconds: float) -> None:
        self._label, self._total, self._every = label, total_steps, every_seconds
        self._values: dict[str, float] = {}
        self._step = start_step
        self._told = True  # whether the current state has been written
        self._began = self._since = (start_step, time.monotonic())
        self._due = -float("inf")

    def advance(self, step: int, values: dict[str, float]) -> None:
        self._values |= values
        self._step, self._told = step, False
        if time.monotonic() >= self._due:
            self._tell(self._since)

    def close(self) -> None:
        if not self._told:
            self._tell(self._began)

    def _tell(self, since: tuple[int, float]) -> None:
        now = time.monotonic()
        steps, seconds = self._step - since[0], now - since[1]
        parts = [self._label, f"step {self._step}/{self._total}", *_shown(self._values)]
        if steps > 0 and seconds > 0:
            parts.append(f"{steps / seconds:.3g} steps/s")
            if self._step < self._total:
                parts.append(f"{duration((self._total - self._step) * seconds / steps)} left")
        sys.stderr.write("  ".join(parts) + "\n")
        sys.stderr.flush()
        self._told, self._since, self._due = True, (self._step, now), now + self._every


class _Parts:
    """The parts of a stage, one bar after the other."""

    def __init__(self, label: str) -> None:
        self._label, self._what = label, ""
        self._progress: Progress | None = None

    def tell(self, done: int, total: int, what: str) -> None:
        if what != self._what or self._progress is None:
            self.close()
            self._what, self._progress = what, progress_on_stderr(f"{self._label}: {what}", total)
        self._progress.advance(done, {})

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


_parts: list[_Parts] = []
"""Of the stages that are under way in this process, the innermost last."""


@contextmanager
def shown(label: str, *, quiet: bool = False) -> Iterator[None]:
    """Inside, what `tell` is told is shown under the label; elsewhere, and where it is quiet, nowhere."""
    if quiet:
        yield
        return
    _parts.append(parts := _Parts(label))
    try:
        yield
    finally:
        _parts.pop()
        parts.close()


def tell(done: int, total: int, what: str) -> None:
    """Says how far work is that no monitor watches, such as the queries of a defence. Costs nothing to speak of."""
    if _parts:
        _parts[-1].tell(done, total, what)


def time_left(first: Mapping[str, Any], last: Mapping[str, Any], total: int) -> float | None:
    """Seconds until step `total` at the speed between two lines of a log, of which the last may be some time ago; None
    where they show no speed."""
    steps, seconds = last["step"] - first["step"], last["time"] - first["time"]
    if steps <= 0 or not seconds > 0:
        return None
    return float(max((total - last["step"]) * seconds / steps - max(time.time() - last["time"], 0.0), 0.0))


def _shown(values: dict[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in values.items()]
