"""A function of tensors recorded as a CUDA graph: replays spare Python and thousands of kernel launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rnet.errors import first_line

Function = Callable[..., Any]
"""Tensors -> a tensor or a tuple of tensors."""

WARM_UPS = 2
"""Calls before a recording, in which libraries choose their algorithms and kernels are compiled."""
TOLERANCE = 1e-3
"""An element is the same if it differs by less, absolutely or relatively."""
SHARE_OF_OTHERS = 0.02
"""Of the elements of a result, so many may differ: where a gradient is nearly zero, rounding decides its sign."""


class Graphed:
    """A recorded function; a call copies its inputs in and replays it.

    function: must not wait for the device, and whatever else it reads must stay where it is in memory. Raises
    RuntimeError if it cannot be recorded.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.detach().clone() for tensor in inputs]
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        """The function's result, in memory that the next call overwrites."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output


class Replayer:
    """Calls functions through their recordings, one for each function and each shape of its inputs.

    obstacle: why nothing is to be recorded; empty to record. It is also set by the first recording that fails, or that
    computes something else than the call it was made from. record: how it is done.
    """

    def __init__(self, obstacle: str = "", record: Callable[[Function, Sequence[Tensor]], Function] = Graphed) -> None:
        self.obstacle = obstacle
        self._record = record
        self._recorded: dict[Any, Function] = {}

    def __call__(self, key: Any, function: Function, inputs: Sequence[Tensor]) -> Any:
        """function(*inputs). key: names the function, whose own identity may change. A replay's result lasts until the
        next one."""
        if self.obstacle:
            return function(*inputs)
        key = (key, *((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs))
        if key not in self._recorded:
            called = function(*inputs)
            try:
                self._recorded[key] = self._record(function, inputs)
            except RuntimeError as error:  # a network that waits for the device, allocates on the host and the like
                self.obstacle = first_line(error)
            else:
                if not _agree(self._recorded[key](*inputs), called):
                    self.obstacle = "its replay computes something else"
            return called
        return self._recorded[key](*inputs)

    def describe(self) -> str:
        """Whether calls are replayed and, if not, why."""
        return f"no CUDA graph ({self.obstacle})" if self.obstacle else "replayed as a CUDA graph"


def _agree(found: Any, expected: Any) -> bool:
    """Whether all results are the same but for a few elements. Waits for the device."""
    pairs = zip(_tensors(found), _tensors(expected), strict=True)
    return all(
        bool((~torch.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)).float().mean() < SHARE_OF_OTHERS) for a, b in pairs
    )


def _tensors(result: Any) -> Sequence[Tensor]:
    return [result] if isinstance(result, Tensor) else result
