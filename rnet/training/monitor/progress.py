"""Progress of one run on stderr: a bar on a terminal, a line now and then in the log of a job."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from tqdm import tqdm


class Progress(Protocol):
    """Shows how far a run is; values are the latest numbers worth watching, by short name."""

    def advance(self, step: int, values: dict[str, float]) -> None:
        """`step` steps are done; may be called again for the same step with more values."""
        ...

    def close(self) -> None: ...


def progress_on_stderr(label: str, total_steps: int, start_step: int, every_seconds: float) -> Progress:
    """A bar if stderr is a terminal, else lines at least every_seconds apart."""
    if sys.stderr.isatty():
        return Bar(label, total_steps, start_step)
    return Lines(label, total_steps, start_step, every_seconds)


class Bar:
    """A tqdm bar that starts at start_step."""

    def __init__(self, label: str, total_steps: int, start_step: int) -> None:
        self._values: dict[str, float] = {}
        self._bar: Any = tqdm(
            desc=label, total=total_steps, initial=start_step, unit="step", file=sys.stderr, dynamic_ncols=True
        )

    def advance(self, step: int, values: dict[str, float]) -> None:
        self._values |= values
        self._bar.set_postfix_str("  ".join(_shown(self._values)), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.refresh()
        self._bar.close()


class Lines:
    """Plain lines: the first advance, then at most one per every_seconds, and the last state when it is closed.

    For example `removalnet  step 300/1000  loss 0.412  kl 0.0731  12.3 steps/s`. The speed is that since the line
    before, and that of the whole run in the last line.
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
        sys.stderr.write("  ".join(parts) + "\n")
        sys.stderr.flush()
        self._told, self._since, self._due = True, (self._step, now), now + self._every


def _shown(values: dict[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in values.items()]
