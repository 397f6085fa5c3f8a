"""Distributed data parallel: every process holds the whole model and a share of each batch (Li et al., VLDB 2020)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnet.engines.plain import PlainEngine

# What keeps DDP from sending buffers around before each forward; torch 2.15 renamed it.
_KNOWN = inspect.signature(DistributedDataParallel).parameters
_UNSENT_BUFFERS: Any = {"forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers": False}


class DDPEngine(PlainEngine):
    """Gradients are averaged while they are computed. Buffers need no exchange: batch norm is global already.

    DDP sorts gradients into other buckets after the first step, unless it is to look for unused parameters. Where a
    number is in its bucket decides how its sum over more than two processes is rounded. So a run that resumes, with the
    buckets of a first step, would end with other bits.
    """

    name: ClassVar[str] = "ddp"
    one_process: ClassVar[bool] = False

    def __init__(self, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, **settings: Any) -> None:
        super().__init__(model, optimizer, scheduler, **settings)
        devices = [self.device] if self.device.type == "cuda" else None
        self._wrapper = DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True, find_unused_parameters=self.world_size > 2,
            **_UNSENT_BUFFERS,
        )  # fmt: skip

    def _wrapped_forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.autocast():
            return self._wrapper(*args, **kwargs)

    def _backward(self, loss: Tensor) -> None:
        super()._backward(loss)
        unused = [name for name, p in self._trained() if p.grad is None]
        if unused:
            raise RuntimeError(f"{', '.join(unused[:3])} got no gradient; the loss must depend on every parameter")

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        with nullcontext() if last else self._wrapper.no_sync():
            yield

    def _dissolve(self) -> None:
        del self._wrapper
