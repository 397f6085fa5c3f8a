"""The latent level's loop over a batch, as it runs fastest: in plain or fused operations, called or replayed.

Nine tenths of an attack is this loop. On CUDA it is recorded once as a CUDA graph and replayed with the contents of
each batch, which spares Python and thousands of kernel launches per batch.

Shapes: B samples, C channels, P = steps + 1 shuffles; z is any (B, ..., C, ...) feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnet.attacks.removalnet import bilevel
from rnet.kernels.latent_step import latent_step
from rnet.parallel.collectives import sum_over_ranks, world_size

Tail = Callable[[Tensor], Tensor]
Function = Callable[..., Tensor]

WARM_UPS = 2
"""Calls before a recording, in which libraries choose their algorithms and kernels are compiled."""
SHARE_OF_FLIPS = 0.02
"""Elements of z1 (at most) in which a recording may differ from a call."""


class LatentLoop:
    """z1 of a batch: the shuffled start and as many shuffled sign steps as there are further shuffles.

    distance: l2 or cosine. fused: the steps' elementwise work in rnet.kernels' operation (l2 only). no_graph: why the
    loop is not to be recorded as a CUDA graph; empty to record it, which needs a tail whose parameters stay where they
    are in memory. record: how that is done.
    """

    def __init__(
        self,
        distance: bilevel.Distance = "l2",
        *,
        fused: bool = False,
        no_graph: str = "not asked for",
        record: Callable[[Function, list[Tensor]], Function] | None = None,
    ) -> None:
        self.distance = distance
        self.fused = fused and distance == "l2"
        self.no_graph = no_graph
        self._record = record or Graphed
        self._recorded: dict[Any, Function] = {}

    def __call__(
        self,
        tail: Tail,
        z: Tensor,
        u: Tensor,
        y_B: Tensor,
        permutations_PBC: Tensor | None,
        channel_axis: int,
        *,
        steps: int,
        chunks: int = 1,
    ) -> Tensor:
        """z1, as z. u: uniform on [0, 1), as z. permutations_PBC: None for shuffles that move nothing.

        The result of a replay is overwritten by the next one. chunks: parts that go through the tail one by one.
        """

        def loop(z: Tensor, u: Tensor, y_B: Tensor, *shuffles: Tensor) -> Tensor:
            permutations = shuffles[0].unbind() if shuffles else [None] * (steps + 1)
            run = self._fused if self.fused else self._plain
            return run(tail, z, u, y_B, permutations, channel_axis, chunks)

        inputs = [z, u, y_B, *([] if permutations_PBC is None else [permutations_PBC])]
        if self.no_graph:
            return loop(*inputs)
        key = (_identity(tail), steps, chunks, channel_axis, *((t.shape, t.stride(), t.dtype) for t in inputs))
        if key not in self._recorded:
            called = loop(*inputs)
            try:
                self._recorded[key] = self._record(loop, inputs)
            except RuntimeError as error:  # a network that waits for the device, allocates on the host and the like
                self.no_graph = (str(error).strip().splitlines() or [type(error).__name__])[0]
            else:
                self.no_graph = "" if _agree(self._recorded[key](*inputs), called) else "its replay computes another z1"
            return called
        return self._recorded[key](*inputs)

    def describe(self) -> str:
        """What was chosen and why something was not."""
        operations = "fused operations" if self.fused else "plain torch operations"
        return f"{operations}, {f'no CUDA graph ({self.no_graph})' if self.no_graph else 'replayed as a CUDA graph'}"

    def _plain(
        self, tail: Tail, z: Tensor, u: Tensor, y_B: Tensor, permutations: Any, channel_axis: int, chunks: int
    ) -> Tensor:
        z1 = bilevel.latent_start(z, u, permutations[0], channel_axis)
        for perm_BC in permutations[1:]:
            z1 = bilevel.latent_step(
                tail, z1, z, y_B, perm_BC, channel_axis, kind=self.distance, processes=world_size(),
                total=sum_over_ranks, chunks=chunks,
            )  # fmt: skip
        return z1

    def _fused(
        self, tail: Tail, z: Tensor, u: Tensor, y_B: Tensor, permutations: Any, channel_axis: int, chunks: int
    ) -> Tensor:
        """As _plain; each step ends with the shuffle of the next one, and cross-entropies are summed, not averaged.

        A positive factor does not change a sign, so the distance's weight carries the number of samples instead.
        """
        z1 = bilevel.latent_start(z, u, permutations[0], channel_axis)
        if len(permutations) > 1 and permutations[1] is not None:
            z1 = bilevel.apply_permutation(z1, permutations[1], channel_axis)
        squared = torch.linalg.vector_norm(z1 - z).square()
        weight = bilevel.LOG_DISTANCE_WEIGHT * len(z1) * world_size()
        following = [*permutations[2:], None]
        for perm_BC in following if len(permutations) > 1 else []:
            gradient = bilevel.cross_entropy_gradient(tail, z1, y_B, chunks)
            z1, squared = latent_step(
                z1, z, gradient, sum_over_ranks(squared).sqrt(), perm_BC, channel_axis=channel_axis, weight=weight,
                step_size=bilevel.STEP_SIZE,
            )  # fmt: skip
        return z1


class Graphed:
    """A function of tensors recorded as a CUDA graph; a call copies its inputs in and replays it.

    function: must not wait for the device, and whatever else it reads must stay where it is in memory. Raises
    RuntimeError if it cannot be recorded.
    """

    def __init__(self, function: Function, inputs: list[Tensor]) -> None:
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

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result, in memory that the next call overwrites."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output


def _agree(z1: Tensor, other: Tensor) -> bool:
    """Whether both are the same but for a few elements whose gradients are so small that rounding decides their sign.

    Waits for the device.
    """
    return bool(((z1 - other).abs() > bilevel.STEP_SIZE / 10).float().mean() < SHARE_OF_FLIPS)


def _identity(tail: Tail) -> Any:
    """What tells tails apart: a bound method is made anew at each access, its object is not."""
    owner = getattr(tail, "__self__", None)
    return id(tail) if owner is None else (id(owner), getattr(tail, "__name__", ""))
