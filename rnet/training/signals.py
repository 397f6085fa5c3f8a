"""A request to stop: a signal raises a flag, and the training loop saves at the next step boundary."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class Preempted(Exception):
    """A run was asked to stop and has saved; the same command goes on from there."""

    def __init__(self, signal_name: str, step: int, total: int) -> None:
        super().__init__(f"stopped by {signal_name} after step {step} of {total}; the same command goes on from there")
        self.signal_name, self.step, self.total = signal_name, step, total


class StopFlag:
    """Inside, SIGTERM and SIGUSR2 raise the flag instead of ending the process. In threads it stays down."""

    def __init__(self) -> None:
        self.raised = False
        self.signal = "another process's signal"
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.raised = True
        self.signal = signal.Signals(number).name
