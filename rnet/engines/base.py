"""The contract of an engine: it owns a model in training, and every forward, backward and step goes through it.

Engines differ in how many processes share the work and what each of them holds, never in what is computed: the loss is
the mean over the global batch, whatever the number of processes (rank r holds the r-th contiguous share).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnet.cutting.split import SplitModel
from rnet.engines.averaging import WeightAverage
from rnet.engines.compiled import compiled_where_possible
from rnet.engines.config import EngineConfig
from rnet.engines.lower_level import LowerLevel, on_frozen_copy, on_surrogate
from rnet.engines.phases import Phases
from rnet.engines.recording import Replayer
from rnet.errors import UserError
from rnet.parallel.collectives import any_rank, rank, world_size
from rnet.rewrites import tiny_maps
from rnet.rewrites.activation_checkpointing import checkpoint_activations, keep_activations
from rnet.rewrites.batch_norm import use_global_batch_norm, use_local_batch_norm
from rnet.rewrites.convolutions import RewrittenConv2d
from rnet.rewrites.cpu import small_maps
from rnet.rewrites.in_training import quicken_training, train_as_torch

logger = logging.getLogger(__name__)

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
LossOf = Callable[[slice], tuple[Tensor, dict[str, Tensor]]]
"""Rows of the local batch -> their mean loss and named parts of it, computed through Engine.forward."""


class Engine(ABC):
    """Trains `unwrapped` with an optimizer and a schedule.

    device: where, by default where the model is; only an engine that divides parameters takes a model from elsewhere.
    precision: fp32, bf16 or fp16 autocast over float32 parameters, for both levels of the optimisation. accumulate: how
    many micro-batches make a step. clip_norm: the largest l2 norm of all gradients together, None for any. compiled:
    torch.compile the forward pass, of a split model its head and its tail; auto compiles on CUDA what lower_level()
    calls many times, and nothing else. cuda_graph: of lower_level(). quicken: rewrite convolutions, and linear layers
    of a split model. average: of the weights, which is measured and kept in their place.
    """

    config: EngineConfig
    """Annotate it with a dataclass derived from EngineConfig where an engine has settings of its own."""
    name: ClassVar[str]
    one_process: ClassVar[bool] = False
    """Whether it cannot share its work among processes."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        *,
        config: EngineConfig | None = None,
        device: torch.device | None = None,
        precision: str = "fp32",
        accumulate: int = 1,
        clip_norm: float | None = None,
        activation_checkpointing: bool = False,
        compiled: bool | str = False,
        cuda_graph: bool = True,
        quicken: bool = True,
        average: WeightAverage | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.unwrapped = model
        self.rank, self.world_size = rank(), world_size()
        self.device = device or next(model.parameters()).device
        self.accumulate = accumulate
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._precision = precision
        self._clip_norm = clip_norm
        self._compile = compiled
        self._cuda_graph = cuda_graph
        self._quicken = quicken
        self._average = average
        self._open = 0  # forwards whose backward has not come yet
        self._inside = False
        self.phases = Phases(self.device)
        use_global_batch_norm(model, self.device)
        self.checkpointed = checkpoint_activations(model) if activation_checkpointing else []
        if activation_checkpointing and not self.checkpointed:
            logger.warning("engine.activation_checkpointing=true has no effect: the network has no repeated blocks")
        if quicken:
            quicken_training(model, self.device)
        self._compiled = ("head", "tail") if isinstance(model, SplitModel) else ("forward",)
        if compiled is True:
            for name in self._compiled:
                setattr(model, name, compiled_where_possible(getattr(model, name)))
        self._guard = model.register_forward_pre_hook(self._refuse_unwrapped_training)

    # --- what a configuration may ask of it

    @classmethod
    def check_config(cls, config: EngineConfig, precision: str, processes: int) -> None:
        """Raises UserError for what this engine cannot do, before anything starts. Called without a process group."""
        if cls.one_process and processes > 1:
            raise UserError(f"engine={config.name} is one process, but {processes} were started; use engine=ddp")
        if config.offload:
            raise UserError("engine.offload=true needs engine=deepspeed with engine.zero_stage=1, 2 or 3")

    # --- what every training loop uses

    def descend(self, loss_of: LossOf, samples: int) -> dict[str, Tensor]:
        """One optimizer step, in train mode, on the mean loss of the local batch's `samples` rows; the parts, averaged.

        loss_of is called once for each of `accumulate` equal micro-batches.
        """
        if samples % self.accumulate:
            raise UserError(
                f"engine.accumulate={self.accumulate} does not divide the {samples} samples that each process has in a "
                f"batch; choose a divisor of {samples}"
            )
        size = samples // self.accumulate
        self.unwrapped.train()
        totals: dict[str, Tensor] = {}
        for number in range(self.accumulate):
            last = number + 1 == self.accumulate
            with self._synchronised(last), self.phases("forward_backward"):
                loss, parts = loss_of(slice(number * size, (number + 1) * size))
                self.backward(loss)
            for name, value in {"loss/total": loss, **parts}.items():
                share = value.detach() / self.accumulate
                totals[name] = totals[name] + share if name in totals else share
        with self.phases("optimizer"):
            self.step()
        return totals

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision policy, the same for both levels of the optimisation."""
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST[self._precision])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's training forward under the precision policy; exactly one before each backward."""
        if self._open:
            raise RuntimeError("a second training forward before backward(); its gradients would not be synchronised")
        self._open, self._inside = 1, True
        try:
            return self._wrapped_forward(*args, **kwargs)
        finally:
            self._inside = False

    def backward(self, loss: Tensor) -> None:
        """Accumulates the gradients of a loss that was computed from the last forward()."""
        if not self._open:
            raise RuntimeError("backward() of a loss that did not come through forward(); ranks would drift apart")
        self._open = 0
        self._backward(loss)

    def step(self) -> None:
        """One optimizer and schedule step; gradients are cleared. A step that is skipped does not count."""
        moved = self._step()
        if not isinstance(moved, bool):
            raise TypeError(
                f"{type(self).__qualname__}._step returned {moved!r}; it says whether parameters have moved"
            )
        if moved:
            self._scheduler.step()
            if self._average is not None:
                self._average.after_step(self._held)

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group, for the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def whole(self) -> bool:
        """Whether every process holds whole parameters, updated in place."""
        return True

    def lower_level(self, example_BCHW: Tensor, say: Callable[[str], None] | None = None) -> LowerLevel:
        """What runs the lower level of a bilevel attack on the model; call it once.

        example_BCHW: images like those to come. say: told, after the first call, how it ran. A model that is no
        SplitModel counts as cut before its first layer: its features are pixels.
        """
        split = self.unwrapped
        timed = partial(self.phases, "lower_level")
        if not isinstance(split, SplitModel) or not self.whole:
            return on_surrogate(
                split, gathered=self.gathered, autocast=self.autocast, chunks=self.accumulate, timed=timed, say=say
            )
        return on_frozen_copy(
            split, example_BCHW, autocast=self.autocast, held=AUTOCAST.get(self._precision), chunks=self.accumulate,
            timed=timed,
            uncompiled=self._compile_obstacle(),
            rewritten_as=self._rewritings(),
            replayer=Replayer(self._graph_obstacle()), say=say,
        )  # fmt: skip

    def save(self) -> dict[str, Any]:
        """Everything a restart needs, on any engine and number of processes; called by all ranks.

        {"model": state dict, "optimizer": {parameter name: its state}, "scheduler": ...}, whole tensors: what processes
        divide is gathered on rank 0 only, in the host's memory, one tensor after the other. With an average of the
        weights also {"average": {"steps": number, "weights": {name: tensor}}}.
        """
        state = {
            "model": self.model_state(),
            "optimizer": self._optimizer_state(),
            "scheduler": self._scheduler.state_dict(),
        }
        if self._average is not None:
            whole = {name: self._whole(name, value) for name, value in self._average.weights.items()}
            found = {name: value for name, value in whole.items() if value is not None}
            state["average"] = {"steps": self._average.steps, "weights": found}
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what save() returned on rank 0 of whatever engine; called by all ranks with the same."""
        self._load_model(state["model"])
        self._load_optimizer(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self._optimizer.param_groups, state["scheduler"]["_last_lr"], strict=True):
            group["lr"] = rate
        if self._average is not None:
            self._average.steps, whole = state["average"]["steps"], state["average"]["weights"]
            held = self._held() if whole else {}
            self._average.weights = {
                name: tensor.clone().copy_(self._share(name, whole[name])) for name, tensor in held.items()
            }

    def finish(self) -> None:
        """Gives the model back as an ordinary module with whole parameters, their average if there is one.

        The engine cannot be used after.
        """
        if self._average is not None:
            self._average.exchange(self._held)
        self._guard.remove()
        self._dissolve()
        for name in self._compiled:
            vars(self.unwrapped).pop(name, None)
        keep_activations(self.unwrapped)
        train_as_torch(self.unwrapped)
        use_local_batch_norm(self.unwrapped)

    def held_bytes(self) -> int:
        """Bytes of parameters that this rank holds between steps."""
        return sum(p.numel() * p.element_size() for p in self.unwrapped.parameters())

    def agree(self, flag: bool) -> bool:
        """Whether any rank raises the flag; called by all."""
        return any_rank(flag)

    def describe(self) -> str:
        """What was chosen, for the log."""
        parts = [self.name, f"{self.world_size} process{'es' if self.world_size > 1 else ''}", str(self.device.type)]
        parts.append(self._precision)
        if self.accumulate > 1:
            parts.append(f"{self.accumulate} micro-batches")
        if self.checkpointed:
            parts.append(f"activations of {len(self.checkpointed)} blocks recomputed")
        return ", ".join(parts)

    # --- what engines do differently

    @abstractmethod
    def _wrapped_forward(self, *args: Any, **kwargs: Any) -> Any: ...

    @abstractmethod
    def _backward(self, loss: Tensor) -> None: ...

    @abstractmethod
    def _step(self) -> bool:
        """Whether the optimizer has moved the parameters."""

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, parts of the unwrapped model may be called, without gradients of parameters."""
        yield

    @contextmanager
    def as_kept(self) -> Iterator[None]:
        """As gathered(), and the model's weights are those that a run would keep: their average, if there is one."""
        if self._average is None:
            with self.gathered():
                yield
            return
        self._average.exchange(self._held)
        try:
            with self.gathered():
                yield
        finally:
            self._average.exchange(self._held)

    def _held(self) -> dict[str, Tensor]:
        """By name, what this process holds of parameters and buffers between steps, to be read and written in place."""
        held = [*self.unwrapped.named_parameters(), *self.unwrapped.named_buffers()]
        return {name: tensor.detach() for name, tensor in held}

    def _whole(self, name: str, held: Tensor) -> Tensor | None:
        """The tensor of which this process holds a share; None where another one takes it. Called by all."""
        return held

    def _share(self, name: str, whole: Tensor) -> Tensor:
        """What this process holds of a whole tensor."""
        return whole

    def _compile_obstacle(self) -> str:
        """Why the lower level is not to be compiled; empty if it is."""
        if self._compile == "auto":
            return "" if self.device.type == "cuda" else f"engine.compile=auto on a {self.device.type}"
        return "" if self._compile else "engine.compile=false"

    def _rewritings(self) -> Sequence[type[RewrittenConv2d]]:
        """What convolutions of the lower level's copy may become."""
        if not self._quicken:
            return ()
        winograd = small_maps.KINDS if self.device.type == "cpu" and self._precision == "fp32" else ()
        return (*winograd, *tiny_maps.KINDS)

    def _graph_obstacle(self) -> str:
        """Why the lower level cannot be a CUDA graph; empty if it can."""
        if self.device.type != "cuda":
            return f"the device is a {self.device.type}"
        if not self._cuda_graph:
            return "engine.cuda_graph=false"
        return "processes talk to each other in it" if self.world_size > 1 else ""

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Around a micro-batch; gradients need to be exchanged after the last one only."""
        yield

    def model_state(self) -> dict[str, Tensor]:
        """The unwrapped model's whole state dict, on rank 0."""
        return self.unwrapped.state_dict()

    def _optimizer_state(self) -> dict[str, dict[str, Any]]:
        return {
            name: dict(self._optimizer.state[parameter])
            for name, parameter in self._trained()
            if parameter in self._optimizer.state
        }

    def _load_model(self, state: dict[str, Tensor]) -> None:
        self.unwrapped.load_state_dict(state)

    def _load_optimizer(self, state: dict[str, dict[str, Any]]) -> None:
        for name, parameter in self._trained():
            if name in state:
                self._optimizer.state[parameter] = {
                    key: value.to(parameter.device, copy=True) if isinstance(value, Tensor) else value
                    for key, value in state[name].items()
                }

    def _dissolve(self) -> None:  # noqa: B027 - plain engines have none
        """Takes the wrapper off."""

    # --- shared parts of engines

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.unwrapped.named_parameters() if p.requires_grad]

    def _refuse_unwrapped_training(self, module: nn.Module, args: Any) -> None:
        if self.world_size > 1 and module.training and torch.is_grad_enabled() and not self._inside:
            raise RuntimeError(
                "a training forward of the unwrapped model: its gradients would not be synchronised; use Engine.forward"
            )
