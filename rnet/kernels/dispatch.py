"""Which code an op runs on CUDA: its Triton kernel or, where Triton does not work, the formula itself."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnet.errors import first_line

logger = logging.getLogger(__name__)


def on_cuda(reference: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """What to register for CUDA: the kernel, or the reference for float64 and where Triton does not work."""

    @functools.wraps(reference)
    def chosen(*arguments: Any) -> Any:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        if any(tensor.dtype == torch.float64 for tensor in tensors) or triton_problem(tensors[0].device):
            return reference(*arguments)
        return kernel(*arguments)

    return chosen


@functools.cache
def triton_problem(device: torch.device) -> str:
    """Why Triton cannot be used on the device; empty if it can. Said once. The first call waits for the device.

    It needs a C compiler, which not every machine with a GPU has.
    """
    try:
        from rnet.kernels.triton.probe import doubled

        with torch.cuda.device(device):
            found = doubled(torch.arange(3.0, device=device)).tolist()
        problem = "" if found == [0.0, 2.0, 4.0] else f"its results are wrong: {found}"
    except Exception as error:  # compilers and drivers raise what they like
        problem = first_line(error)
    if problem:
        logger.warning("Triton does not work on %s (%s): fused operations run as plain ones, slower", device, problem)
    return problem
