"""DeepSpeed ZeRO: optimizer state (1), gradients (2) and parameters (3) divided among the processes.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020. Stage 0 is
data parallelism by DeepSpeed. Mixed precision is torch's autocast over float32 parameters, opened inside the wrapped
module, because DeepSpeed switches off an autocast that it finds around it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnet.engines.base import Engine

KEEP_WHOLE = 10_000  # ZeRO-3 leaves parameters of fewer elements on every rank: sending them costs more than they hold


class DeepSpeedEngine(Engine):
    """zero_stage: 0 to 3. offload: keep optimizer state (and, at stage 3, parameters) in the host's memory.

    Stage 3: the unwrapped model's parameters are empty between forwards; its submodules fetch theirs when called, and
    lower_level() provides those that the cut model reads itself (class tokens, position embeddings).
    """

    name: ClassVar[str] = "deepspeed"
    whole: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        *,
        zero_stage: int,
        offload: bool = False,
        **settings: Any,
    ) -> None:
        model.to(memory_format=torch.contiguous_format)  # DeepSpeed flattens parameters, and cannot send strided ones
        super().__init__(model, optimizer, scheduler, **settings)
        self._stage = zero_stage
        self._hooks_before = _hooks(model)
        self._direct = _direct_parameters(model) if zero_stage == 3 else []
        self._engine = _initialised(
            self.device,
            model=_InAutocast(model, self.autocast),
            model_parameters=[parameter for _, parameter in self._trained()],
            optimizer=optimizer,
            config=self._settings(zero_stage, offload),
        )
        if zero_stage == 3:
            for parameter in self._direct:
                import_deepspeed(self.device).zero.register_external_parameter(self._engine.module, parameter)

    def _settings(self, stage: int, offload: bool) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": stage, "overlap_comm": self.device.type == "cuda"}
        if stage == 3:
            zero["stage3_param_persistence_threshold"] = KEEP_WHOLE
        if offload:
            where = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
            zero["offload_optimizer"] = where
            if stage == 3:
                zero["offload_param"] = where
        return {
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only multiplies it; batches are made elsewhere
            "gradient_accumulation_steps": self.accumulate,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**31,
            "gradient_clipping": self._clip_norm or 0.0,  # DeepSpeed clips to 1 unless it is told not to
        }

    def describe(self) -> str:
        """Also the stage."""
        return super().describe().replace(self.name, f"{self.name} ZeRO-{self._stage}", 1)

    @contextmanager
    def lower_level(self) -> Iterator[None]:
        """At stage 3, with the parameters that the cut model reads itself."""
        if not self._direct:
            yield
            return
        with import_deepspeed(self.device).zero.GatheredParameters(self._direct):
            yield

    def held_bytes(self) -> int:
        """Its shares at stage 3, else all."""
        if self._stage < 3:
            return super().held_bytes()
        held = 0
        for parameter in self.unwrapped.parameters():
            share: Any = getattr(parameter, "ds_tensor", None)
            held += parameter.numel() * parameter.element_size()
            held += share.numel() * share.element_size() if share is not None else 0
        return held

    def _wrapped_forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def _backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)  # divides by the number of micro-batches itself
        self._engine.step()  # counts micro-batches; moves the parameters after the last one

    def _step(self) -> None:
        """Done in _backward."""

    # --- whole tensors in and out

    def model_state(self) -> dict[str, Tensor]:
        """Whole tensors, also where parameters are divided."""
        state = {name: tensor.detach() for name, tensor in self.unwrapped.state_dict().items()}
        if self._stage == 3:
            for name, parameter in self.unwrapped.named_parameters():
                state[name] = self._whole(parameter)
        return state

    def _load_model(self, state: dict[str, Tensor]) -> None:
        if self._stage < 3:
            super()._load_model(state)
        else:
            for name, buffer in self.unwrapped.named_buffers():
                if name in state:
                    buffer.copy_(state[name])
            zero = import_deepspeed(self.device).zero
            for name, parameter in self.unwrapped.named_parameters():
                with torch.no_grad(), zero.GatheredParameters([parameter], modifier_rank=0):
                    if self.rank == 0:
                        parameter.copy_(state[name])
        from deepspeed.utils import safe_set_full_fp32_param

        if self._stage > 0:
            for name, parameter in self._trained():
                safe_set_full_fp32_param(parameter, state[name].to(self.device))

    def _optimizer_state(self) -> dict[str, dict[str, Any]]:
        if self._stage == 0:
            return super()._optimizer_state()
        from deepspeed.utils import safe_get_full_optimizer_state

        return {
            name: {
                key: safe_get_full_optimizer_state(parameter, key).detach().clone().view(_shape(parameter))
                for key in self._state_keys()
            }
            for name, parameter in self._trained()
            if self._state_keys()
        }

    def _load_optimizer(self, state: dict[str, dict[str, Any]]) -> None:
        if self._stage == 0:
            super()._load_optimizer(state)
            return
        from deepspeed.utils import safe_set_full_optimizer_state

        keys = sorted({key for values in state.values() for key in values})
        self._allocate(keys)
        for name, parameter in self._trained():
            for key in keys:
                safe_set_full_optimizer_state(parameter, state[name][key].to(self.device), key)

    def _flats(self) -> list[nn.Parameter]:
        """The flat parameters that the optimizer really holds on this rank."""
        zero = self._engine.optimizer
        return list(zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups)

    def _state_keys(self) -> list[str]:
        state = self._engine.optimizer.optimizer.state
        keys = {key for flat in self._flats() for key, value in state.get(flat, {}).items() if torch.is_tensor(value)}
        return sorted(keys)

    def _allocate(self, keys: list[str]) -> None:
        """Optimizers make their state at the first step; a resumed run needs the places before."""
        state = self._engine.optimizer.optimizer.state
        for flat in self._flats():
            for key in keys:
                state[flat].setdefault(key, torch.zeros_like(flat.data))
        if self._stage < 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        with import_deepspeed(self.device).zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def _dissolve(self) -> None:
        """Ordinary parameters in place of DeepSpeed's, and none of its hooks."""
        whole = {name: value.clone() for name, value in self.model_state().items()}
        trained = {name for name, _ in self._trained()}
        self._engine.destroy()
        for prefix, module in self.unwrapped.named_modules():
            names = {name: f"{prefix}.{name}" if prefix else name for name in module._parameters}
            held = {name: module._parameters[name] for name in names}
            module._parameters = {
                name: None if held[name] is None else nn.Parameter(whole[full], requires_grad=full in trained)
                for name, full in names.items()
            }
        _restore_hooks(self.unwrapped, self._hooks_before)
        del self._engine


class _InAutocast(nn.Module):
    """The model under the precision policy, as DeepSpeed sees it."""

    def __init__(self, model: nn.Module, autocast: Any) -> None:
        super().__init__()
        self.inner = model
        self._autocast = autocast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._autocast():
            return self.inner(*args, **kwargs)


def sharded_inference(model: nn.Module, device: torch.device) -> nn.Module:
    """A frozen model whose parameters are divided among the processes; each forward must be called by all of them."""
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": KEEP_WHOLE},
    }
    engine = _initialised(device, model=model, config=settings)
    engine.eval()  # DeepSpeed's returns nothing
    return engine


def import_deepspeed(device: torch.device) -> Any:
    """The module, told which device is meant, quiet about it."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def _initialised(device: torch.device, **arguments: Any) -> Any:
    """DeepSpeed's engine, whose building says things on standard output, where results go."""
    _need_process_group(device)
    deepspeed = import_deepspeed(device)
    with contextlib.redirect_stdout(sys.stderr):
        engine, *_ = deepspeed.initialize(dist_init_required=False, **arguments)
    return engine


def _need_process_group(device: torch.device) -> None:
    """DeepSpeed wants torch.distributed also for one process, and looks for MPI where there is none."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def _direct_parameters(model: nn.Module) -> list[nn.Parameter]:
    named = dict(model.named_parameters())
    prefix = "model." if hasattr(model, "direct_parameters") else ""
    return [named[prefix + name] for name in getattr(model, "direct_parameters", [])]


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hooks(model: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: {kind: dict(getattr(m, kind)) for kind in _HOOKS} for name, m in model.named_modules()}


def _restore_hooks(model: nn.Module, before: dict[str, dict[str, Any]]) -> None:
    for name, module in model.named_modules():
        for kind in _HOOKS:
            hooks = getattr(module, kind)
            for key in [key for key in hooks if key not in before[name][kind]]:
                del hooks[key]
