"""How the lower level of a bilevel attack runs: a pure function of tensors on a surrogate that stands still.

An attack says what is computed, as `function(network, *tensors)`; here it is decided on what and how: on a frozen copy
with its batch norms folded in or, where parameters are divided, on the surrogate itself; in the run's precision; in
micro-batches; compiled; its convolutions rewritten; replayed as one CUDA graph.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rnet.cutting.split import SplitModel
from rnet.engines.recording import Replayer
from rnet.errors import first_line
from rnet.parallel.collectives import gather_rows, sum_over_ranks, world_size
from rnet.rewrites.convolutions import RewrittenConv2d, quicken
from rnet.rewrites.folding import FoldedSplit

T = TypeVar("T")
Context = Callable[[], AbstractContextManager[Any]]
Say = Callable[[str], None]


class Network:
    """What a function sees of the surrogate: constants, in eval mode, and a share of the global batch.

    chunks: micro-batches that go through the tail one after the other where activations are kept. compiled: where
    gradients are asked for, the tail, a loss that is a function of some module, and their backward pass go through
    torch.compile.
    """

    def __init__(self, split: SplitModel | Uncut, *, chunks: int = 1, compiled: bool = False) -> None:
        self.split = split
        self.compiled = compiled
        self._chunks = chunks
        self._objectives: dict[Any, Callable[..., Tensor]] = {}

    def call_as_it_is(self) -> None:
        """Gives up compiling."""
        self.compiled = False
        self._objectives.clear()

    def head(self, x_BCHW: Tensor) -> Tensor:
        """z: the features at the cut layer."""
        return self.split.head(x_BCHW)

    def tail(self, z: Tensor) -> Tensor:
        """Logits (B, K) from z."""
        return self.split.tail(z)

    def gradient(self, loss: Callable[..., Tensor], z: Tensor, *rows: Tensor) -> Tensor:
        """Gradient at z of loss(tail(z), *rows), a sum over samples; as z. rows: tensors with one row per sample."""
        objective, gradients = self._objective(loss), []
        for part, *row_parts in zip(*(tensor.chunk(self._chunks) for tensor in (z, *rows)), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(True)
                gradients.append(torch.autograd.grad(objective(leaf, *row_parts), leaf)[0])
        return torch.cat(gradients) if len(gradients) > 1 else gradients[0]

    def _objective(self, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """(z, *rows) -> loss(tail(z), *rows). What is made anew for each call, as lambdas are, is not compiled."""
        lasting = getattr(sys.modules.get(loss.__module__), getattr(loss, "__qualname__", ""), None) is loss
        key = loss if lasting else None
        if key not in self._objectives:
            tail = self.split.tail

            def whole(z: Tensor, *rows: Tensor) -> Tensor:
                return loss(tail(z), *rows)

            made = whole if lasting else tail
            self._objectives[key] = torch.compile(made, dynamic=False) if self.compiled else made
        made = self._objectives[key]
        return made if lasting else lambda z, *rows: loss(made(z), *rows)

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
    is called. uncompiled: why the tail is not compiled, where it is not. notes: what else was chosen, for the log. say:
    told, after the first call, how it ran.
    """

    def __init__(
        self,
        network: Network,
        *,
        refresh: Callable[[], object],
        contexts: tuple[Context, ...] = (),
        replayer: Replayer,
        uncompiled: str = "",
        notes: tuple[str, ...] = (),
        say: Say | None = None,
    ) -> None:
        self.network = network
        self._refresh = refresh
        self._contexts = contexts
        self._replay = replayer
        self._uncompiled = uncompiled
        self._notes = notes
        self._say = say
        self._called = False

    def __call__(self, function: Callable[..., T], *tensors: Tensor) -> T:
        """function: pure, without effects; it returns a tensor or a tuple of tensors, which last until the next call.

        It runs without gradients, but for those it asks network.gradient for.
        """

        def refreshed(*given: Tensor) -> T:
            self._refresh()
            return function(self.network, *given)

        started = time.monotonic()
        with ExitStack() as stack:
            for context in (torch.no_grad, *self._contexts):
                stack.enter_context(context())
            try:
                result: T = self._replay(function, refreshed, tensors)
            except Exception as error:  # compilers raise what they like
                if not self.network.compiled or self._called:
                    raise
                self.network.call_as_it_is()
                self._uncompiled = first_line(error)
                result = self._replay(function, refreshed, tensors)
        if not self._called:
            self._called = True
            if self._say is not None:
                self._say(f"lower level: {self.describe()}; its first call took {time.monotonic() - started:.1f} s")
        return result

    def describe(self) -> str:
        """What was chosen, and why something was not."""
        compiled = "compiled" if self.network.compiled else f"not compiled ({self._uncompiled})"
        return ", ".join((self._replay.describe(), *self._notes, compiled))


def on_frozen_copy(
    split: SplitModel,
    example_BCHW: Tensor,
    *,
    autocast: Context = nullcontext,
    timed: Context = nullcontext,
    held: torch.dtype | None = None,
    chunks: int = 1,
    uncompiled: str = "not asked for",
    rewritten_as: Sequence[type[RewrittenConv2d]] = (),
    replayer: Replayer | None = None,
    say: Say | None = None,
) -> LowerLevel:
    """On a copy whose convolutions have taken over their batch norms; it follows the weights of `split`, which are
    whole and stay where they are in memory.

    example_BCHW: images like those to come. held: the type of an autocast, in which the copy holds its matrix weights.
    uncompiled: why the copy's tail is not to go through torch.compile; empty to compile it. rewritten_as: what its
    convolutions are replaced by where that pays. timed: opened around each call, outermost.
    """
    copy = FoldedSplit(split, example_BCHW, held=held)
    with autocast():
        rewritten = quicken(copy.split.model, example_BCHW, rewritten_as) if rewritten_as else []

    def refresh() -> None:
        copy.refresh()
        for convolution in rewritten:
            convolution.refresh()

    notes = [f"{copy.count} batch norms folded"]
    if held is not None:
        notes.append(f"weights held in {str(held).removeprefix('torch.')}")
    if rewritten_as:
        notes.append(f"{len(rewritten)} convolution{'' if len(rewritten) == 1 else 's'} rewritten")
    if not uncompiled:
        refresh()
        with torch.no_grad(), autocast():  # so that the tail knows whether it writes to z before it is traced
            copy.split.tail(copy.split.head(example_BCHW).float())
    return LowerLevel(
        Network(copy.split, chunks=chunks, compiled=not uncompiled), refresh=refresh, contexts=(timed, autocast),
        replayer=replayer or Replayer(), uncompiled=uncompiled, notes=tuple(notes), say=say,
    )  # fmt: skip


class Uncut:
    """A model cut before its first layer."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def head(self, x_BCHW: Tensor) -> Tensor:
        """The pixels."""
        return x_BCHW

    def tail(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) from pixels."""
        logits_BK: Tensor = self.model(x_BCHW)
        return logits_BK

    def eval(self) -> None:
        """Puts the model into eval mode."""
        self.model.eval()


def on_surrogate(
    model: nn.Module, *, gathered: Context, autocast: Context = nullcontext, timed: Context = nullcontext,
    chunks: int = 1, say: Say | None = None,
) -> LowerLevel:  # fmt: skip
    """On the surrogate itself, in eval mode. gathered: where its parameters can be read. timed: as above."""
    split = model if isinstance(model, SplitModel) else Uncut(model)
    reason = "the model is not cut" if isinstance(split, Uncut) else "parameters are divided"
    return LowerLevel(
        Network(split, chunks=chunks), refresh=split.eval, contexts=(timed, gathered, autocast),
        replayer=Replayer(reason), uncompiled=reason, notes=(f"batch norms not folded ({reason})",), say=say,
    )  # fmt: skip
