"""Tensors that have shapes and no memory: what a stage would allocate, without allocating it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rnet.kernels.kept_tensors import forget_tensors
from rnet.planning.live import LiveBytes


@contextmanager
def shapes_only() -> Iterator[LiveBytes]:
    """Inside, operations make fake tensors; yields the count of those that are alive.

    A process of several is alone inside: it sends nothing, so that one of them can plan for all.
    """
    forget_tensors()
    random_state = torch.get_rng_state()  # building a network puts back one that is fake
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _AnyNumber(), LiveBytes() as live:
            copied = patch.object(FakeTensor, "__deepcopy__", _deepcopy, create=True)
            alone = patch.object(torch.distributed, "is_initialized", lambda: False)
            as_numbers = patch.object(FakeTensor, "numpy", _numpy, create=True)
            with copied, alone, as_numbers, patch.object(nn.Module, "_apply", _apply):
                yield live
    finally:
        gc.collect()  # fake tensors in circles would meet those of the next count
        forget_tensors()
        torch.set_rng_state(random_state)


class _AnyNumber(TorchDispatchMode):
    """Who asks for the value of a fake tensor gets 1.0, as optimizers divide by what they make of it, 0 or false.

    All tensors are equal.
    """

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else False if args[0].dtype == torch.bool else 0
        if operator is torch.ops.aten.equal.default:
            return True
        return operator(*args, **(kwargs or {}))


def _apply(self: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
    """Module.to() and the like. Torch's own exchanges the insides of fake parameters: not of watched ones."""
    for child in self.children() if recurse else ():
        child._apply(function)
    held: dict[str, Any]
    for held in (self._parameters, self._buffers):
        for name, tensor in held.items():
            if tensor is None:
                continue
            with torch.no_grad():
                made = function(tensor)
            if made is not tensor:
                is_parameter = isinstance(tensor, nn.Parameter)
                held[name] = nn.Parameter(made, requires_grad=tensor.requires_grad) if is_parameter else made
    return self


def _numpy(self: Tensor) -> np.ndarray:
    """Ones, as for who asks for one value."""
    return np.ones(self.shape, dtype=str(self.dtype).removeprefix("torch."))


def _deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """Torch's own copies the storage, which a fake tensor does not have where it says."""
    if id(self) not in memo:
        made = self.detach().clone()
        is_parameter = isinstance(self, nn.Parameter)
        memo[id(self)] = nn.Parameter(made, requires_grad=self.requires_grad) if is_parameter else made
    found: Tensor = memo[id(self)]
    return found
