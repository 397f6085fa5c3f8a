"""What a run does besides its steps, as it would be done in so many of them: measurements, probes, curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from rnet.attacks.training import Training
from rnet.data.images import Dataset
from rnet.stages.probes import make_probe
from rnet.training.fidelity import measure_on, predict
from rnet.training.monitor import Monitor
from rnet.training.watching import Watching


def monitoring(
    ready: Training, victim: nn.Module, dataset: Dataset, layer: str | None, metrics: dict[str, Tensor], folder: Path
) -> tuple[Callable[[int], None], int, Monitor]:
    """A function that does the monitoring of so many steps, that number, and the monitor, which is to be closed.

    The number of steps holds each of the intervals log_every, eval_every and probe_every a whole number of times.
    metrics: what a step reports. folder: where curves are written to.
    """
    config, device = ready.run.config, ready.run.device
    test = dataset.test.subset(torch.arange(min(len(dataset.test), config.eval_samples))).to(device)
    monitor = Monitor(folder, "bench", 2**31, quiet=True)
    watching = Watching(
        monitor, ready.engine, config, ready.batches, measure=measure_on(test, predict(victim, test)),
        probe=make_probe(victim, test, layer, device), start=0,
    )  # fmt: skip
    steps = math.lcm(config.log_every, config.eval_every, config.probe_every or 1)

    def work(number: int) -> None:
        for t in range(number * steps, (number + 1) * steps):
            watching.before(t)
            if t % config.log_every == 0:
                watching.after(t, metrics, 0.0)

    return work, steps, monitor
