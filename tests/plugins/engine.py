"""An engine in one file: one process, whose first steps name the operation that made a NaN.

rnet train engine=mylab.engine:WatchfulEngine engine.watched_steps=20
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rnet import EngineConfig, PlainEngine


@dataclass(frozen=True, kw_only=True)
class WatchfulConfig(EngineConfig):
    """The keys of this engine, beside those of all: device, checkpoints, curves."""

    watched_steps: int = 100
    """Steps that are watched; each takes several times as long."""


class WatchfulEngine(PlainEngine):
    """Runs the first steps under torch's anomaly detection. Engines differ in how they compute, never in what."""

    name: ClassVar[str] = "watchful"
    config: WatchfulConfig
    _steps = 0

    def _watch(self) -> AbstractContextManager[Any]:
        return torch.autograd.set_detect_anomaly(self._steps < self.config.watched_steps)

    def _wrapped_forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._watch():
            return super()._wrapped_forward(*args, **kwargs)

    def _backward(self, loss: Tensor) -> None:
        with self._watch():
            super()._backward(loss)

    def _step(self) -> bool:
        self._steps += 1
        return super()._step()

    def describe(self) -> str:
        """What the log says of it."""
        return f"{super().describe()}, the first {self.config.watched_steps} steps watched"
