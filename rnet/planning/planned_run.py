"""A run of a few steps on fake tensors, whose engine says of what it keeps whose it is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnet.config.run import RunConfig
from rnet.data.batches import Batch
from rnet.data.images import Part
from rnet.engines.averaging import WeightAverage
from rnet.engines.base import Engine
from rnet.engines.plain import PlainEngine
from rnet.planning.live import LiveBytes
from rnet.rewrites.memory_format import use_channels_last
from rnet.training.loop import Run, Step, resolve_device

GRADIENTS, OPTIMIZER = "gradients", "optimizer's state"
STEPS = 2
"""The optimizer makes its state in the first; the second is like all others."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Of what a process computes: its samples of a batch, and whether parameters are divided, so that the lower level
    runs on the surrogate itself."""

    processes: int = 1
    divided: bool = False


def take_steps(engine: Engine, step: Step) -> None:
    """The first steps of an engine of a PlannedRun."""
    assert isinstance(engine, PlannedEngine)
    engine.take_steps(step)


class PlannedEngine(PlainEngine):
    """Ordinary training, of which the count knows what it is doing."""

    def __init__(self, *args: Any, live: LiveBytes, divided: bool, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._divided, self._live = divided, live
        self.phases: Any = _Phases(live)

    def take_steps(self, step: Step) -> None:
        """So many that all is there; gradients and the optimizer's state are counted as such."""
        live = self._live
        for _, parameter in self._trained():
            parameter.register_post_accumulate_grad_hook(lambda grown: live.belongs(GRADIENTS, [grown.grad]))
        with live.during("between phases"):
            for t in range(STEPS):
                step(t)
                states = [value for state in self._optimizer.state.values() for value in state.values()]
                live.belongs(OPTIMIZER, [value for value in states if isinstance(value, Tensor) and value.dim()])

    @property
    def whole(self) -> bool:
        return not self._divided


class _Phases:
    """What a step says that it is doing."""

    def __init__(self, live: LiveBytes) -> None:
        self._live = live

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return self._live.during(name.replace("_", " "))


@dataclass(frozen=True, kw_only=True)
class PlannedRun(Run):
    """A run of which no step is more than planned."""

    live: Any
    share: Share

    @classmethod
    def of(cls, config: RunConfig, share: Share, live: LiveBytes) -> PlannedRun:
        """For one of the processes."""
        return cls(
            label="plan", device=resolve_device(config.engine.device), config=config.engine,
            precision=config.precision, live=live, share=share, quiet=True,
        )  # fmt: skip

    def batches(self, part: Part, batch_size: int, seed: int, **how: Any) -> Any:
        """Batches of fake pixels."""
        size, local = part.source.fetch(torch.arange(1)).shape[1:], batch_size // self.share.processes

        def batch(step: int) -> Batch:
            ids_B = torch.arange(local)
            return Batch(
                indices_B=ids_B % len(part), x_BCHW=torch.empty(local, *size, device=self.device),
                labels_B=torch.zeros(local, dtype=torch.int64, device=self.device),
                flipped_B=torch.zeros(local, dtype=torch.bool, device=self.device), stream_ids_B=ids_B,
            )  # fmt: skip

        return batch

    def engine(
        self, model: nn.Module, optimizer: Any, scheduler: Any, *, clip_norm: float | None = None, pieces: int = 1,
        average: WeightAverage | None = None,
    ) -> Engine:  # fmt: skip
        """One process's, with the settings that change what it keeps."""
        model.to(self.device)
        use_channels_last(model)
        return PlannedEngine(
            model, optimizer, scheduler, device=self.device, precision=self.precision, clip_norm=clip_norm,
            accumulate=self.config.accumulate * pieces, average=average,
            activation_checkpointing=self.config.activation_checkpointing, compiled=False, cuda_graph=False,
            quicken=self.config.quicken, live=self.live, divided=self.share.divided,
        )  # fmt: skip
