"""The engine of one process on one device: no wrapping at all. Also the local half of the data-parallel engine."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnet.engines.base import Engine


class PlainEngine(Engine):
    """Ordinary autograd and an ordinary optimizer; under fp16 with a dynamic loss scale (Micikevicius et al. 2018)."""

    name: ClassVar[str] = "plain"
    one_process: ClassVar[bool] = True

    def __init__(self, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, **settings: Any) -> None:
        super().__init__(model, optimizer, scheduler, **settings)
        if self.device.type == "cuda":  # one pass over the parameters in place of several
            for group in optimizer.param_groups:
                group |= {"fused": True, "foreach": False} if "fused" in group else {}
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._precision == "fp16")

    def _wrapped_forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.autocast():
            return self.unwrapped(*args, **kwargs)

    def _backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss / self.accumulate).backward()

    def _step(self) -> bool:
        if self._clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_([p for _, p in self._trained()], self._clip_norm)
        scaled = self._scaler.is_enabled()  # only then does reading the scale wait for the device, as its step does
        scale = self._scaler.get_scale() if scaled else 1.0
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return not scaled or self._scaler.get_scale() >= scale  # a gradient that overflowed lowers the scale

    def save(self) -> dict[str, Any]:
        """Also the loss scale."""
        return {**super().save(), "scaler": self._scaler.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Also the loss scale, if the state has one."""
        super().load(state)
        if state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])
