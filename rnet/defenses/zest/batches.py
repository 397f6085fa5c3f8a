"""How many masked images go through a model at once, by the memory that one of them takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rnet.models.black_box import BlackBox
from rnet.rewrites.modes import device_of, frozen_eval


def images_per_forward(model: nn.Module, x_1CHW: Tensor, memory_mb: int) -> int:
    """How many images fit in `memory_mb` MiB in a forward pass without gradient; at least 1.

    Measured: one image goes through the model in eval mode, and four times the largest tensor that it makes (input,
    output, a residual branch, working space) is allowed per image. A black box has a limit of its own.
    """
    if isinstance(model, BlackBox):
        return model.batch_size
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with frozen_eval(model), torch.no_grad():
        x_1CHW = x_1CHW.to(device_of(model))
        with _LargestTensor(known) as largest:
            model(x_1CHW)
    return max(1, memory_mb * 2**20 // max(1, 4 * largest.nbytes, 4 * x_1CHW.nbytes))


class _LargestTensor(TorchDispatchMode):
    """Records the largest storage, in bytes, that operations inside make; `known` storages do not count."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return result
