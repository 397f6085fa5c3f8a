"""How the lower level of a bilevel attack runs: a pure function of tensors on a surrogate that stands still.

An attack says what is computed, as `function(network, *tensors)`; here it is decided on what and how: on a frozen copy
with its batch norms folded in or, where parameters are divided, on the surrogate itself; in the run's precision; in
micro-batches; compiled; rewritten for CPUs; replayed as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from rnet.cutting.split import SplitModel
from rnet.engines.recording import Replayer
from rnet.parallel.collectives import gather_rows, sum_over_ranks, world_size
from rnet.rewrites.cpu.small_maps import quicken
from rnet.rewrites.folding import FoldedSplit

T = TypeVar("T")
Context = Callable[[], AbstractContextManager[Any]]
Say = Callable[[str], None]


class Network:
    """What a function sees of the surrogate: constants, in eval mode, and a share of the global batch.

    chunks: micro-batches that go through the tail one after the other where activations are kept.
    """

    def __init__(self, split: SplitModel, *, chunks: int = 1) -> None:
        self.split = split
        self._chunks = chunks

    def head(self, x_BCHW: Tensor) -> Tensor:
        """z: the features at the cut layer."""
        return self.split.head(x_BCHW)

    def tail(self, z: Tensor) -> Tensor:
        """Logits (B, K) from z."""
        return self.split.tail(z)

    def gradient(self, loss: Callable[..., Tensor], z: Tensor, *rows: Tensor) -> Tensor:
        """Gradient at z of loss(tail(z), *rows), a sum over samples; as z. rows: tensors with one row per sample."""
        gradients = []
        for part, *row_parts in zip(*(tensor.chunk(self._chunks) for tensor in (z, *rows)), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(True)
                gradients.append(torch.autograd.grad(loss(self.tail(leaf), *row_parts), leaf)[0])
        return torch.cat(gradients) if len(gradients) > 1 else gradients[0]

    def total(self, value: Tensor) -> Tensor:
        """A sum over this process's samples -> the sum over those of the global batch."""
        return sum_over_ranks(value)

    def count(self, rows_B: Tensor) -> int:
        """How many samples the global batch has, where this process's share of it has these rows."""
        return len(rows_B) * world_size()

    def gather(self, rows_B: Tensor) -> Tensor:
        """This process's rows -> those of the global batch, in its order."""
        return gather_rows(rows_B)


class LowerLevel:
    """lower(function, *tensors) is function(network, *tensors), on the surrogate as it is at the time of the call.

    refresh: takes over the surrogate's weights. contexts: opened around each call, in order. replayer: how the function
    is called. notes: what was chosen, for the log. say: told, after the first call, how it ran.
    """

    def __init__(
        self,
        network: Network,
        *,
        refresh: Callable[[], object],
        contexts: tuple[Context, ...] = (),
        replayer: Replayer,
        notes: tuple[str, ...] = (),
        say: Say | None = None,
    ) -> None:
        self.network = network
        self._refresh = refresh
        self._contexts = contexts
        self._replay = replayer
        self._notes = notes
        self._say = say

    def __call__(self, function: Callable[..., T], *tensors: Tensor) -> T:
        """function: pure, without effects; it returns a tensor or a tuple of tensors, which last until the next call.

        It runs without gradients, but for those it asks network.gradient for.
        """
        self._refresh()
        with ExitStack() as stack:
            for context in (torch.no_grad, *self._contexts):
                stack.enter_context(context())
            result: T = self._replay(function, lambda *given: function(self.network, *given), tensors)
        if self._say is not None:
            self._say(f"lower level: {self.describe()}")
            self._say = None
        return result

    def describe(self) -> str:
        """What was chosen, and why something was not."""
        return ", ".join((self._replay.describe(), *self._notes))


def on_frozen_copy(
    split: SplitModel,
    example_BCHW: Tensor,
    *,
    autocast: Context = nullcontext,
    chunks: int = 1,
    compiled: bool = False,
    quick: bool = False,
    replayer: Replayer | None = None,
    say: Say | None = None,
) -> LowerLevel:
    """On a copy whose convolutions have taken over their batch norms; it follows the weights of `split`, which are
    whole and stay where they are in memory.

    example_BCHW: images like those to come. compiled: torch.compile the copy's tail. quick: rewrite its convolutions of
    small maps where that pays; for float32 on CPUs.
    """
    copy = FoldedSplit(split)
    rewritten = quicken(copy.split.model, example_BCHW) if quick else []
    if compiled:
        copy.split.tail = torch.compile(copy.split.tail)  # type: ignore[method-assign]

    def refresh() -> None:
        copy.refresh()
        for convolution in rewritten:
            convolution.refresh()

    notes = [f"{copy.count} batch norms folded"]
    if quick:
        notes.append(f"{len(rewritten)} convolutions rewritten")
    notes.append("compiled" if compiled else "not compiled (engine.compile=false)")
    return LowerLevel(
        Network(copy.split, chunks=chunks), refresh=refresh, contexts=(autocast,), replayer=replayer or Replayer(),
        notes=tuple(notes), say=say,
    )  # fmt: skip


def on_surrogate(
    split: SplitModel, *, gathered: Context, autocast: Context = nullcontext, chunks: int = 1, say: Say | None = None
) -> LowerLevel:
    """On the surrogate itself, in eval mode. gathered: where its parameters can be read."""
    reason = "parameters are divided"
    return LowerLevel(
        Network(split, chunks=chunks), refresh=split.eval, contexts=(gathered, autocast), replayer=Replayer(reason),
        notes=(f"batch norms not folded ({reason})",), say=say,
    )  # fmt: skip
