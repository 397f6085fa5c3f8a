"""The one training loop: steps, curves, measurements, checkpoints, and going on exactly where a run was cut off."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnet.data.batches import TrainingBatches
from rnet.data.images import Part
from rnet.data.views import Views
from rnet.data.workers import workers_for
from rnet.draws import derive_seed
from rnet.engines.base import Engine
from rnet.engines.choice import build_engine, divides_parameters, resolve_engine
from rnet.engines.config import EngineConfig
from rnet.errors import UserError
from rnet.parallel.collectives import rank, same_on_all, same_tensor_on_all, sum_over_ranks, world_size
from rnet.parallel.launch import launched
from rnet.rewrites.memory_format import use_channels_last
from rnet.storage.checkpoint import Checkpoints
from rnet.training.finite import FiniteWatch, Images, first_not_finite, not_kept, tensors_in
from rnet.training.monitor import Monitor, NullMonitor
from rnet.training.signals import Preempted, StopFlag

logger = logging.getLogger(__name__)

Step = Callable[[int], dict[str, Tensor]]
Measure = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a stage hands to whatever trains: where to write, on what to compute, and how to report.

    folder: of checkpoints and curves; None writes nothing, so that a run cannot be resumed. measure: called on the
    model in training every engine.eval_every steps, e.g. accuracy and agreement. settings: what the run is computed
    from, for TensorBoard's HPARAMS table, where runs have ids only.
    """

    label: str
    device: torch.device
    folder: Path | None = None
    config: EngineConfig = field(default_factory=EngineConfig)
    precision: str = "fp32"
    identity: str = ""
    measure: Measure = lambda model: {}
    on_checkpoint: Callable[[int, int], None] = lambda step, total: None
    settings: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False

    def batches(
        self, part: Part, batch_size: int, seed: int, *, flip: bool, crop_padding: int = 0, views: Views | None = None
    ) -> TrainingBatches:  # fmt: skip
        """This process's share of the training batches."""
        return TrainingBatches(
            part, batch_size=batch_size, seed=seed, flip=flip, crop_padding=crop_padding, views=views,
            device=self.device, rank=rank(), world_size=world_size(),
            workers=workers_for(self.config.workers, launched().local_world_size or world_size()),
        )  # fmt: skip

    def engine(
        self, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, *, clip_norm: float | None = None
    ) -> Engine:
        """The engine that will train the model on self.device, in the memory format that is fastest for it.

        The model may be on the CPU. Where processes divide its parameters, they never are whole on a device.
        """
        config = resolve_engine(self.config, model, self.device, world_size())
        if not divides_parameters(config):
            model.to(self.device)
        use_channels_last(model)
        engine = build_engine(
            config, model, optimizer, scheduler, device=self.device, precision=self.precision, clip_norm=clip_norm
        )
        self.say(engine.describe())
        return engine

    def say(self, text: str) -> None:
        """Tells the user what was chosen, once for all processes."""
        if rank() == 0 and not self.quiet:
            logger.info("%s: %s", self.label, text)

    def agreed(self, value: Tensor) -> Tensor:
        """The first process's value, for all: of what each works out alone, on a CPU that may round in its own way."""
        return same_tensor_on_all(value)

    def optimise(
        self, engine: Engine, *, num_steps: int, step: Step, seed: int, images: Images | None = None
    ) -> None:  # fmt: skip
        """Calls step(t) for t = 0 .. num_steps-1, resuming after the latest checkpoint of this run if there is one.

        step returns named 0-dim tensors; they are read only every engine.log_every steps, so that a step never waits
        for the device. seed and step decide what torch's global generators draw (dropout), which are put back after.
        images: which images a step is about, for messages. At the end the engine gives the model back. Raises Diverged
        before it would keep numbers that are not finite, and Preempted, after saving, if the process was asked to stop
        (SIGTERM, SIGUSR2).
        """
        with torch.random.fork_rng(), StopFlag() as stop:
            self._optimise(engine, num_steps, step, seed, stop, FiniteWatch(self.label, engine.device, images))
        engine.finish()

    def _optimise(
        self, engine: Engine, num_steps: int, step: Step, seed: int, stop: StopFlag, watch: FiniteWatch
    ) -> None:  # fmt: skip
        checkpoints = None
        if self.folder is not None:
            checkpoints = Checkpoints(self.folder / "checkpoints", identity={"id": self.identity})
        start, kept = 0, None
        if checkpoints and (found := same_on_all(checkpoints.latest() if rank() == 0 else None)) is not None:
            start = kept = found
            engine.load(checkpoints.load(start)["engine"])
            self.say(f"goes on after step {start}")
        saved_at = time.monotonic()
        with self._monitor(num_steps, start) as monitor:
            for t in range(start, num_steps):
                learning_rate = engine.learning_rate
                torch.manual_seed(derive_seed(seed, f"step {t} of process {engine.rank}"))
                metrics = step(t)
                watch.note(t, metrics["loss/total"])
                done, last = t + 1, t + 1 == num_steps
                look = t % self.config.log_every == 0 or last
                if look:
                    values = _mean_over_ranks(metrics)
                    monitor.scalars(t, {**values, "lr": learning_rate})
                    monitor.advance(done, {name.split("/")[-1]: value for name, value in values.items()})
                    watch.require_finite(engine.unwrapped.named_parameters, kept)
                if done % self.config.eval_every == 0 or last:
                    monitor.scalars(t, measured := self.measure(engine.unwrapped))
                    monitor.advance(done, measured)
                    if last:
                        monitor.hyperparameters(self.settings, measured)
                due, stopping = time.monotonic() - saved_at >= self.config.checkpoint_seconds, stop.raised
                if engine.world_size > 1:  # they agree only now and then, because that waits for the device
                    due, stopping = (look and engine.agree(flag) for flag in (due, stopping))
                planned = self.config.checkpoint_steps and done % self.config.checkpoint_steps == 0
                if checkpoints and (last or due or stopping or planned):
                    watch.require_finite(engine.unwrapped.named_parameters, kept)
                    monitor.flush()  # what is logged before a checkpoint survives with it
                    self._save(checkpoints, engine, done, num_steps, kept)
                    saved_at, kept = time.monotonic(), done
                elif last and (tensor := first_not_finite(engine.unwrapped.named_parameters())):
                    raise not_kept(self.label, done, tensor, kept)
                if stopping and not last:
                    raise Preempted(stop.signal, done, num_steps)

    def _save(
        self, checkpoints: Checkpoints, engine: Engine, done: int, num_steps: int, kept: int | None
    ) -> None:  # fmt: skip
        """In a function, so that what rank 0 gathers for it is gone when the next step begins."""
        state = engine.save()
        if tensor := same_on_all(first_not_finite(tensors_in(state)) if rank() == 0 else None):
            raise not_kept(self.label, done, tensor, kept)
        if rank() == 0:
            checkpoints.save(done, {"engine": state})
            self.on_checkpoint(done, num_steps)

    def _monitor(self, num_steps: int, start: int) -> Monitor:
        if rank() > 0:
            return NullMonitor()
        return Monitor(self.folder, self.label, num_steps, start, quiet=self.quiet)


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; `auto` and `cuda` are the current device, in a process group each rank's own.

    Raises UserError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"engine.device={name!r} is no device; choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"engine.device={name!r} is not supported; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"engine.device={name!r} is not there ({torch.cuda.device_count()} CUDA devices); use engine.device=cpu"
        )
    return device


def _mean_over_ranks(metrics: dict[str, Tensor]) -> dict[str, float]:
    """Each rank has measured its share of the batch."""
    stacked = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
    means = (sum_over_ranks(stacked) / world_size()).tolist()
    return dict(zip(metrics, means, strict=True))
