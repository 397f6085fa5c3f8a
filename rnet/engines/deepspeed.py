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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnet.engines.base import Engine
from rnet.engines.config import EngineConfig
from rnet.errors import UserError

KEEP_WHOLE = 10_000  # ZeRO-3 leaves parameters of fewer elements on every rank: sending them costs more than they hold
_LARGEST_BUCKET = 500_000_000  # elements of a buffer for gradients: DeepSpeed's default, 2 GB whatever the model


class DeepSpeedEngine(Engine):
    """config.zero_stage: 0 to 3. config.offload: keep optimizer state (at stage 3, also parameters) in host memory.

    Stage 3: the unwrapped model's parameters are empty between forwards; its submodules fetch theirs when called, and
    gathered() provides those that the cut model reads itself (class tokens, position embeddings). A model that is
    still in the host's memory comes to the device share by share.
    """

    name: ClassVar[str] = "deepspeed"

    @classmethod
    def check_config(cls, config: EngineConfig, precision: str, processes: int) -> None:
        """Can offload from stage 1 on; refuses what DeepSpeed does not do together with it."""
        if config.zero_stage == 0:
            super().check_config(config, precision, processes)
        if config.compile is True:
            raise UserError("engine.compile=true is not supported with engine=deepspeed; use engine=ddp, or false")
        if precision == "fp16":
            raise UserError("precision=fp16 is not supported with engine=deepspeed; use bf16, or engine=ddp")

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        *,
        config: EngineConfig,
        **settings: Any,
    ) -> None:
        zero_stage, offload = config.zero_stage, config.offload
        model.to(memory_format=torch.contiguous_format)  # DeepSpeed flattens parameters, and cannot send strided ones
        super().__init__(model, optimizer, scheduler, config=config, **settings)
        self._stage = zero_stage
        self._hooks_before = _hooks(model)
        self._direct = _direct_parameters(model) if zero_stage == 3 else []
        wrapped, zero = _InAutocast(model, self.autocast), self._settings(zero_stage, offload)
        if zero_stage == 3:
            _divide(wrapped, self.device, zero)
        trained = [parameter for _, parameter in self._trained()]
        self._engine = _initialised(
            self.device, model=wrapped, model_parameters=trained, optimizer=optimizer, config=zero
        )
        if zero_stage == 3:
            if not offload:
                self._share_weights()
            for parameter in self._direct:
                import_deepspeed(self.device).zero.register_external_parameter(self._engine.module, parameter)

    def _share_weights(self) -> None:
        """Lets the optimizer update the shares that are sent around, both in float32, rather than a copy of them.

        DeepSpeed means to, but compares a torch.device with the name of a device.
        """
        zero = self._engine.optimizer
        for sent, updated in zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True):
            updated.data = sent.data

    def _settings(self, stage: int, offload: bool) -> dict[str, Any]:
        elements = sum(parameter.numel() for _, parameter in self._trained())
        zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": min(elements, _LARGEST_BUCKET)}
        if stage == 3:
            zero = _one_layer_at_a_time(self.unwrapped)
        zero["overlap_comm"] = self.device.type == "cuda"
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

    @property
    def whole(self) -> bool:
        """Up to stage 2, every process holds whole parameters, updated in place."""
        return self._stage < 3

    @contextmanager
    def gathered(self) -> Iterator[None]:
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

    def _step(self) -> bool:
        """Done in _backward."""
        return True

    # --- whole tensors in and out

    def model_state(self) -> dict[str, Tensor]:
        """Whole tensors; where parameters are divided on rank 0 only, in the host's memory."""
        if self._stage < 3:
            return super().model_state()
        parameters: dict[str, Any] = dict(self.unwrapped.named_parameters(remove_duplicate=False))
        state = {}
        for name, tensor in self.unwrapped.state_dict().items():  # of divided parameters it holds empty tensors
            divided = parameters.get(name)
            whole = tensor.detach() if divided is None else self._joined(divided.ds_tensor, divided.ds_shape)
            if whole is not None:
                state[name] = whole
        return state

    def _held(self) -> dict[str, Tensor]:
        """At stage 3 shares; small parameters, which are whole everywhere, are fetched anew from them."""
        held = super()._held()
        if self._stage == 3:
            divided: Any
            for name, divided in self.unwrapped.named_parameters():
                divided.partition()
                held[name] = divided.ds_tensor.data
        return held

    def _whole(self, name: str, held: Tensor) -> Tensor | None:
        parameter: Any = dict(self.unwrapped.named_parameters()).get(name)
        if self._stage < 3 or parameter is None:
            return super()._whole(name, held)
        return self._joined(held, parameter.ds_shape)

    def _share(self, name: str, whole: Tensor) -> Tensor:
        parameter: Any = dict(self.unwrapped.named_parameters()).get(name)
        if self._stage < 3 or parameter is None:
            return super()._share(name, whole)
        return self._own_share(parameter, whole)

    def _load_model(self, state: dict[str, Tensor]) -> None:
        if self._stage == 3:
            for name, buffer in self.unwrapped.named_buffers():
                if name in state:
                    buffer.copy_(state[name])
            divided: Any
            for name, divided in self.unwrapped.named_parameters():
                divided.partition()  # frees it where it is small and kept whole, so that it is fetched anew
                divided.ds_tensor.copy_(self._own_share(divided, state[name]))
        else:
            super()._load_model(state)
        if self._stage == 0:
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        for name, parameter in self._trained():
            if self._stage == 3:
                safe_set_local_fp32_param(parameter, self._own_share(parameter, state[name]))
            else:
                safe_set_full_fp32_param(parameter, state[name].to(self.device))

    def _optimizer_state(self) -> dict[str, dict[str, Any]]:
        """Whole tensors; where they are divided on rank 0 only, in the host's memory, gathered one by one."""
        if self._stage == 0:
            return super()._optimizer_state()
        if self._stage < 3:
            self._link_state()
        keys, counts = self._state_keys(), self._counts() if self.rank == 0 else {}
        found: dict[str, dict[str, Any]] = {}
        for name, parameter in self._trained():
            wholes = {key: self._whole_state(parameter, key) for key in keys}
            if own := {key: whole for key, whole in wholes.items() if whole is not None} | counts:
                found[name] = own
        return found

    def _whole_state(self, parameter: Any, key: str) -> Tensor | None:
        from deepspeed.utils import safe_get_full_optimizer_state, safe_get_local_optimizer_state

        if self._stage == 3:
            return self._joined(safe_get_local_optimizer_state(parameter, key), parameter.ds_shape)
        whole = safe_get_full_optimizer_state(parameter, key)
        return whole.detach().to("cpu", copy=True).view(parameter.shape) if self.rank == 0 else None

    def _load_optimizer(self, state: dict[str, dict[str, Any]]) -> None:
        if self._stage == 0:
            super()._load_optimizer(state)
            return
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        items = [item for values in state.values() for item in values.items()]
        keys = {key for key, value in items if value.dim()}
        self._allocate(sorted(keys), {key: value for key, value in items if key not in keys})
        for name, parameter in self._trained():
            for key in sorted(keys & state.get(name, {}).keys()):
                whole = state[name][key]
                if self._stage == 3:
                    safe_set_local_optimizer_state(parameter, self._own_share(parameter, whole), key)
                else:
                    safe_set_full_optimizer_state(parameter, whole.to(self.device), key)

    def _joined(self, share: Tensor, shape: torch.Size) -> Tensor | None:
        """On rank 0 the whole tensor of which each rank has a share, in the host's memory; None on the others.

        One share after the other comes to rank 0, so that its device holds no more than two of them.
        """
        share = share.detach().to(self.device)
        if self.rank > 0:
            dist.send(share, dst=0)
            return None
        whole = torch.empty(shape, dtype=share.dtype, device="cpu")
        for sender in range(self.world_size):
            if sender == 1:
                share = torch.empty_like(share)
            if sender > 0:
                dist.recv(share, src=sender)
            part = whole.view(-1)[sender * share.numel() : (sender + 1) * share.numel()]
            part.copy_(share[: part.numel()])  # the last shares are padded
        return whole

    def _own_share(self, parameter: Any, whole: Tensor) -> Tensor:
        """This rank's part of a tensor like the parameter, flat and padded as DeepSpeed divides it."""
        size = parameter.ds_tensor.numel()
        part = whole.reshape(-1)[self.rank * size : (self.rank + 1) * size]
        return F.pad(part, (0, size - len(part))).to(self.device)

    def _flats(self) -> list[nn.Parameter]:
        """The flat parameters that the optimizer really holds on this rank."""
        zero = self._engine.optimizer
        return list(zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups)

    def _state(self) -> list[tuple[str, Tensor]]:
        """Of the optimizer's state all tensors, by key."""
        state = self._engine.optimizer.optimizer.state
        return [item for flat in self._flats() for item in state.get(flat, {}).items() if torch.is_tensor(item[1])]

    def _state_keys(self) -> list[str]:
        """Keys of what is as large as the parameters."""
        return sorted({key for key, value in self._state() if value.dim()})

    def _counts(self) -> dict[str, Tensor]:
        """Single numbers, which are the same for all parameters: Adam counts its steps."""
        return {key: value.detach().to("cpu", copy=True) for key, value in self._state() if not value.dim()}

    def _allocate(self, keys: list[str], counts: dict[str, Tensor]) -> None:
        """Optimizers make their state at the first step; a resumed run needs the places before."""
        state = self._engine.optimizer.optimizer.state
        for flat in self._flats():
            for key in keys:
                state[flat].setdefault(key, torch.zeros_like(flat.data))
            for key, value in counts.items():
                state[flat][key] = value.clone()
        if self._stage < 3:
            self._link_state()

    def _link_state(self) -> None:
        """Tells parameters where their state is. DeepSpeed does so after the step of the first group alone."""
        self._engine.optimizer._hp_optimizer_states_linked = False
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _dissolve(self) -> None:
        """Ordinary parameters in place of DeepSpeed's, and none of its hooks."""
        trained = {name for name, _ in self._trained()}
        self._optimizer.state.clear()  # before parameters become whole
        deepspeed = import_deepspeed(self.device)
        self._engine.destroy()
        for prefix, module in self.unwrapped.named_modules():
            held = dict(module._parameters)
            module._parameters = {}
            for name, parameter in held.items():
                full = f"{prefix}.{name}" if prefix else name
                if parameter is None:
                    module._parameters[name] = None
                    continue
                with deepspeed.zero.GatheredParameters([parameter]):
                    module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=full in trained)
            vars(module).pop("_original_parameters", None)
        _restore_hooks(self.unwrapped, self._hooks_before)
        _let_go(self._engine.module)
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
    """Divides a frozen model among the processes, in place; each forward must be called by all of them.

    The model may be in the host's memory; its shares, and what a forward computes, are on the device.
    """
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": _one_layer_at_a_time(model)}
    _divide(model, device, settings)
    engine = _initialised(device, model=model, config=settings)
    engine.eval()  # DeepSpeed's returns nothing
    _let_go(model)
    return engine


def _one_layer_at_a_time(model: nn.Module) -> dict[str, Any]:
    """Stage 3 with room for a layer or two in every buffer.

    DeepSpeed's defaults (buffers of 0.2 and 2 GB, layers kept from the forward to the backward pass) hold more than
    is saved by dividing a network of less than a billion parameters. Nothing is fetched ahead: that follows the order
    of one forward pass, and here parts of the model are called as well. The optimizer steps through groups of about a
    layer: over all shares at once its weight decay and Nesterov's step would each take a copy of them.
    """
    largest = max(parameter.numel() for parameter in model.parameters())
    return {
        "stage": 3,
        "stage3_param_persistence_threshold": KEEP_WHOLE,
        "stage3_prefetch_bucket_size": 0,
        "stage3_max_live_parameters": 2 * largest,
        "stage3_max_reuse_distance": 0,
        "reduce_bucket_size": largest,
        "sub_group_size": largest,
    }


def _divide(model: nn.Module, device: torch.device, settings: dict[str, Any]) -> None:
    """Leaves each process its share of every parameter, on the device, one after the other; buffers go there too."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    _need_process_group(device)
    import_deepspeed(device).zero.Init(module=model, config_dict_or_path=settings)


def _let_go(module: nn.Module) -> None:
    """Takes the module from a global list in which DeepSpeed would keep it, and all that it held, for ever."""
    from deepspeed.runtime.zero import parameter_offload

    modules = parameter_offload.FWD_MODULE_STACK
    modules[:] = [other for other in modules if other is not module]


def import_deepspeed(device: torch.device) -> Any:
    """The module, told which device is meant, quiet about it, and building nothing.

    For processes on CPUs it would compile an operator for inference, which needs a compiler; torch before 2.14 waits
    for ever for the lock of such a build that was killed (pytorch issue 189245).
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__ = {}  # or it runs compilers to see which operators it could build
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


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hooks(model: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: {kind: dict(getattr(m, kind)) for kind in _HOOKS} for name, m in model.named_modules()}


def _restore_hooks(model: nn.Module, before: dict[str, dict[str, Any]]) -> None:
    for name, module in model.named_modules():
        for kind in _HOOKS:
            hooks = getattr(module, kind)
            for key in [key for key in hooks if key not in before[name][kind]]:
                del hooks[key]
