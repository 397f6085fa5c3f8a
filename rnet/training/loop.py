"""The one training loop: steps, curves, measurements, checkpoints, and going on exactly where a run was cut off."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
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
from rnet.engines.averaging import WeightAverage
from rnet.engines.base import Engine
from rnet.engines.choice import build_engine, divides_parameters, resolve_engine
from rnet.engines.config import EngineConfig, check_device
from rnet.errors import UserError
from rnet.parallel.collectives import rank, same_on_all, same_tensor_on_all, world_size
from rnet.parallel.launch import launched
from rnet.rewrites.batch_norm import quick_statistics
from rnet.rewrites.cpu.freed_memory import keep_freed_memory
from rnet.rewrites.memory_format import use_channels_last
from rnet.storage.checkpoint import Checkpoints
from rnet.training.finite import FiniteWatch, first_not_finite, not_kept, tensors_in
from rnet.training.monitor import Monitor, NullMonitor
from rnet.training.monitor.startup import in_words, startup
from rnet.training.signals import Preempted, StopFlag
from rnet.training.watching import Measure, Probe, Watching

logger = logging.getLogger(__name__)

Step = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a stage hands to whatever trains: where to write, on what to compute, and how to report.

    folder: of checkpoints and curves; None writes nothing, so that a run cannot be resumed. measure: called on the
    model in training every engine.eval_every steps, e.g. accuracy and agreement. probe: every engine.probe_every steps,
    on a few fixed queries; both by all processes. on_start: called after the first step with where the time until then
    went (startup.py). settings: what the run is computed from, for TensorBoard's HPARAMS table, where runs have ids
    only. texts: Markdown by name, for its texts. at_end: called by all processes with the monitor (a NullMonitor on all
    but the first) and the trained model, an ordinary module again, to show more of it.
    """

    label: str
    device: torch.device
    folder: Path | None = None
    config: EngineConfig = field(default_factory=EngineConfig)
    precision: str = "fp32"
    identity: str = ""
    measure: Measure = lambda model: {}
    probe: Probe | None = None
    on_start: Callable[[int, int, dict[str, float]], None] = lambda step, total, startup: None
    on_checkpoint: Callable[[int, int], None] = lambda step, total: None
    settings: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    at_end: Callable[[Monitor, nn.Module], None] = lambda monitor, model: None
    quiet: bool = False
    resumable: bool = True
    """Whether checkpoints are written to the folder, and looked for."""

    def batches(
        self, part: Part, batch_size: int, seed: int, *, flip: bool, crop_padding: int = 0, views: Views | None = None,
        pieces: int = 1,
    ) -> TrainingBatches:  # fmt: skip
        """This process's share of the training batches."""
        return TrainingBatches(
            part, batch_size=batch_size, seed=seed, flip=flip, crop_padding=crop_padding, views=views,
            device=self.device, rank=rank(), world_size=world_size(),
            workers=workers_for(self.config.workers, launched().local_world_size or world_size()), pieces=pieces,
        )  # fmt: skip

    def engine(
        self, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, *, clip_norm: float | None = None,
        pieces: int = 1, average: WeightAverage | None = None,
    ) -> Engine:  # fmt: skip
        """The engine that will train the model on self.device, in the memory format that is fastest for it.

        The model may be on the CPU. Where processes divide its parameters, they never are whole on a device. pieces: of
        a step's batch, each of which is engine.accumulate micro-batches. average: of the weights, to be kept.
        """
        config = resolve_engine(self.config, world_size())
        config = replace(config, accumulate=config.accumulate * pieces)
        if not divides_parameters(config):
            model.to(self.device)
        use_channels_last(model)
        if self.device.type == "cpu":
            keep_freed_memory()
        engine = build_engine(
            config, model, optimizer, scheduler, device=self.device, precision=self.precision, clip_norm=clip_norm,
            average=average,
        )  # fmt: skip
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
        self, engine: Engine, *, num_steps: int, step: Step, seed: int, batches: TrainingBatches | None = None
    ) -> None:  # fmt: skip
        """Calls step(t) for t = 0 .. num_steps-1, resuming after the latest checkpoint of this run if there is one.

        step returns named 0-dim tensors; they are read only every engine.log_every steps, so that a step never waits
        for the device. seed and step decide what torch's global generators draw (dropout), which are put back after.
        batches: what the steps are about, to be shown and for messages. At the end the engine gives the model back.
        Raises Diverged before it would keep numbers that are not finite, and Preempted, after saving, if the process
        was asked to stop (SIGTERM, SIGUSR2).
        """
        checkpoints, start = None, 0
        if self.folder is not None and self.resumable:
            checkpoints = Checkpoints(self.folder / "checkpoints", identity={"id": self.identity})
        if checkpoints and (found := same_on_all(checkpoints.latest() if rank() == 0 else None)) is not None:
            start = found
            engine.load(checkpoints.load(start)["engine"])
            self.say(f"goes on after step {start}")
        finite = FiniteWatch(self.label, engine.device, batches.positions if batches is not None else None)
        with (
            torch.random.fork_rng(), StopFlag() as stop, self._monitor(num_steps, start) as monitor,
            quick_statistics(engine.unwrapped, num_steps) as changed,
        ):  # fmt: skip
            if changed:
                self.say(changed)
            watching = Watching(
                monitor, engine, self.config, batches, measure=self.measure, probe=self.probe, start=start
            )  # fmt: skip
            watching.beginning(start, self.texts)
            self._take_steps(engine, range(start, num_steps), step, seed, watching, monitor, checkpoints, stop, finite)
            watching.ending(num_steps, self.settings)
            engine.finish()
            self.at_end(monitor, engine.unwrapped)

    def _take_steps(
        self, engine: Engine, steps: range, step: Step, seed: int, watching: Watching, monitor: Monitor,
        checkpoints: Checkpoints | None, stop: StopFlag, finite: FiniteWatch,
    ) -> None:  # fmt: skip
        num_steps, kept = steps.stop, steps.start or None
        saved_at = time.monotonic()
        for t in steps:
            learning_rate = engine.learning_rate
            with engine.phases("monitoring"):
                watching.before(t)
            torch.manual_seed(derive_seed(seed, f"step {t} of process {engine.rank}"))
            with startup.part("first step") if t == steps.start else nullcontext():
                metrics = step(t)
            if t == steps.start:
                self._say_how_it_began(t, num_steps)
            finite.note(t, metrics["loss/total"])
            done, last = t + 1, t + 1 == num_steps
            look = t % self.config.log_every == 0 or last
            if look:
                watching.after(t, metrics, learning_rate)
                finite.require_finite(engine.unwrapped.named_parameters, kept)
            due, stopping = time.monotonic() - saved_at >= self.config.checkpoint_seconds, stop.raised
            if engine.world_size > 1:  # they agree only now and then, because that waits for the device
                due, stopping = (look and engine.agree(flag) for flag in (due, stopping))
            planned = self.config.checkpoint_steps and done % self.config.checkpoint_steps == 0
            if checkpoints and (last or due or stopping or planned):
                finite.require_finite(engine.unwrapped.named_parameters, kept)
                with engine.phases("checkpoint"):
                    monitor.flush()  # what is logged before a checkpoint survives with it
                    self._save(checkpoints, engine, done, num_steps, kept)
                saved_at, kept = time.monotonic(), done
            elif last and (tensor := first_not_finite(engine.unwrapped.named_parameters())):
                raise not_kept(self.label, done, tensor, kept)
            if stopping and not last:
                raise Preempted(stop.signal, done, num_steps)

    def _say_how_it_began(self, step: int, num_steps: int) -> None:
        parts = startup.told()
        if parts:
            self.say(in_words(parts))
        if rank() == 0:
            self.on_start(step, num_steps, parts)

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
    check_device(name)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"engine.device={name!r} is not there ({torch.cuda.device_count()} CUDA devices); use engine.device=cpu"
        )
    return device
