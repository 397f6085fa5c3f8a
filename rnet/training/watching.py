"""What is measured of a model while it trains, and when: nothing here changes a bit of what is trained.

What stands at step s of a curve is about the model after s steps. So all that is logged at s or later is made again
by a run that resumes after s steps, and the monitor drops what the attempt before had said of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rnet.data.batches import TrainingBatches
from rnet.engines.base import Engine
from rnet.engines.config import EngineConfig
from rnet.parallel.collectives import sum_over_ranks, world_size
from rnet.training.monitor import Monitor
from rnet.training.monitor.pictures import side_by_side
from rnet.training.monitor.progress import SHORT_NAMES
from rnet.training.monitor.system import system_load

PROBE_IMAGES = 32
"""Images (at most) of which the fixed queries of evasion probes are made."""
PHASES = ("data", "forward_backward", "optimizer", "monitoring", "checkpoint")
"""Of every step; a lower level comes on top where there is one."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a measurement found: numbers for curves, and many numbers for histograms, by tag."""

    scalars: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Tensor] = field(default_factory=dict)


Measure = Callable[[nn.Module], dict[str, float]]
Probe = Callable[[nn.Module], Seen]


class Watching:
    """Called by all processes, because they measure together; only rank 0 has a monitor that shows anything.

    measure: every engine.eval_every steps. probe: every engine.probe_every. Both also of the model as it begins and as
    it ends. `beginning` and `ending` are called once, `before` and `after` with each step.
    """

    def __init__(
        self, monitor: Monitor, engine: Engine, config: EngineConfig, batches: TrainingBatches | None,
        *, measure: Measure, probe: Probe | None, start: int,
    ) -> None:  # fmt: skip
        self._monitor, self._engine, self._config, self._batches = monitor, engine, config, batches
        self._measure, self._probe = measure, probe if config.probe_every else None
        self._read_at, self._read_after = time.monotonic(), start

    def beginning(self, start: int, texts: Mapping[str, str]) -> None:
        """What stays as it is: of a run that resumes only the texts, which may say something else now."""
        for name, text in texts.items():
            self._monitor.text(start, f"run/{name}", text)
        if start > 0:
            return
        self._monitor.charts()
        if self._monitor.draws and self._batches is not None:
            self._monitor.image(0, "images/first_batch", side_by_side(self._batches(0).x_BCHW))

    def before(self, t: int) -> None:
        """What is due after t steps, measured on the model as it is."""
        if t % self._config.eval_every == 0:
            self._show_measured(t)
        if self._probe is not None and t % self._config.probe_every == 0:
            self._show_probed(t)

    def after(self, t: int, metrics: Mapping[str, Tensor], learning_rate: float) -> None:
        """What step t found on its batch, with the model as it was after t steps; waits for the device."""
        stacked = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
        means = (sum_over_ranks(stacked) / world_size()).tolist()  # each process has measured its share of the batch
        found = dict(zip(metrics, means, strict=True))
        self._monitor.scalars(t, {**found, "loss/learning_rate": learning_rate, **self._speed(t + 1), **self._system()})
        self._monitor.advance(t + 1, _worth_watching(found))

    def ending(self, num_steps: int, settings: Mapping[str, Any]) -> None:
        """The model as it ends: measured, probed, and entered in the table of runs."""
        found = self._show_measured(num_steps)
        if self._probe is not None:
            found |= self._show_probed(num_steps)
        self._monitor.hyperparameters(settings, found)
        rows = "".join(f"| {name} | {value:.4f} |\n" for name, value in found.items())
        self._monitor.text(
            num_steps, "run/result",
            f"After {num_steps} steps. `result.json` in the run's folder has the figures of all test images.\n\n"
            f"| measured | value |\n|---|---|\n{rows}",
        )  # fmt: skip

    def _show_measured(self, step: int) -> dict[str, float]:
        with self._engine.as_kept():
            found = self._measure(self._engine.unwrapped)
        self._show(step, found)
        return found

    def _show_probed(self, step: int) -> dict[str, float]:
        assert self._probe is not None
        with self._engine.as_kept():
            seen = self._probe(self._engine.unwrapped)
        self._show(step, seen.scalars)
        for tag, values in seen.histograms.items():
            self._monitor.histogram(step, tag, values.cpu())
        return dict(seen.scalars)

    def _show(self, step: int, found: dict[str, float]) -> None:
        self._monitor.scalars(step, found)
        self._monitor.advance(step, _worth_watching(found))

    def _speed(self, done: int) -> dict[str, float]:
        """Of the steps since the last call: seconds of a step and of its phases, and images per second."""
        now, steps = time.monotonic(), done - self._read_after
        seconds, phases = (now - self._read_at) / steps, self._engine.phases.read()
        self._read_at, self._read_after = now, done
        names = [*PHASES, *(name for name in phases if name not in PHASES)]
        found = {f"speed/seconds_{name}": phases.get(name, 0.0) / steps for name in names}
        found["speed/seconds_step"] = seconds
        if self._batches is not None:
            found["speed/images_per_second"] = self._batches.batch_size / seconds
        return found

    def _system(self) -> dict[str, float]:
        return {f"system/{name}": value for name, value in system_load(self._engine.device).items()}


def _worth_watching(found: Mapping[str, float]) -> dict[str, float]:
    """The few numbers that progress shows, under short names."""
    return {SHORT_NAMES[name]: value for name, value in found.items() if name in SHORT_NAMES}
