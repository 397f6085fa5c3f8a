"""DeepJudge's fuzzing: images that drive one neuron of a layer beyond anything seen in training.

Source: Chen et al., IEEE S&P 2022, and the authors' program. Shapes: N seeds, M targeted neurons, P cases (a seed
driven towards one neuron), A pairs being searched, C channels (of images in x, of the cut layer in phi), H height, W
width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnet.defenses.row_adam import RowAdam
from rnet.parallel.collectives import gather_ragged_rows, gather_values, rank, world_size
from rnet.training.monitor.progress import tell

Phi = Callable[[Tensor], Tensor]
"""Pixels (B, C, H, W) -> neuron outputs (B, C of the layer), differentiable."""

CHECK_EVERY = 20  # steps between two looks at which pairs are over: each look waits for the device


@dataclass(frozen=True)
class Fuzzed:
    """Test cases: x_PCHW the images, neuron_P the neuron (an index into the layer) each was made for; on the CPU.

    attempted: pairs tried. reached: those that reached their threshold; others are among the cases only as the best
    attempts at their neuron.
    """

    x_PCHW: Tensor
    neuron_P: Tensor
    attempted: int
    reached: int


@dataclass
class _Pool:
    """The pairs being searched at the moment, each with its own image, Adam state and number of steps.

    best_ACHW, most_A: the image with the largest output so far and that output; empty where nobody wants them.
    """

    pair_A: Tensor
    x_ACHW: Tensor
    adam: RowAdam
    steps_A: Tensor
    reached_A: Tensor
    over_A: Tensor
    best_ACHW: Tensor
    most_A: Tensor

    @classmethod
    def of(cls, pair_A: Tensor, x_ACHW: Tensor, *, keras: bool, best: bool) -> _Pool:
        no_A = torch.zeros_like(pair_A, dtype=torch.bool)
        best_ACHW = x_ACHW.clone() if best else x_ACHW.new_empty(len(pair_A), 0)
        most_A = x_ACHW.new_full((len(pair_A),), -math.inf)
        adam = RowAdam.start(x_ACHW, keras=keras)
        return cls(pair_A, x_ACHW, adam, torch.zeros_like(pair_A), no_A, no_A, best_ACHW, most_A)

    def select(self, keep: Tensor) -> _Pool:
        kept = {name: tensor[keep] for name, tensor in vars(self).items() if name != "adam"}
        return _Pool(**kept, adam=self.adam.select(keep))

    def join(self, other: _Pool) -> _Pool:
        names = [name for name in vars(self) if name != "adam"]
        joined = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in names}
        return _Pool(**joined, adam=self.adam.join(other.adam))


def fuzz(
    phi: Phi,
    seeds_NCHW: Tensor,
    neuron_M: Tensor,
    threshold_M: Tensor,
    *,
    learning_rate: float,
    max_steps: int,
    box: bool,
    chunk: int,
    keras: bool = False,
    unit_C11: Tensor | None = None,
    best_attempt: bool = False,
) -> Fuzzed:
    """Ascends phi_c from every seed for every neuron c until it exceeds the neuron's threshold; the cases that did.

    Every (seed, neuron) pair has its own Adam, at most max_steps steps, clamped to [0, 1] if box, and stops after the
    first step that brings phi_c above the threshold. Adam is elementwise, so pairs share a batch of up to `chunk`
    images without influencing each other; places of finished pairs go to waiting ones. Cases are ordered by seed, then
    by neuron. seeds_NCHW and threshold_M live on the model's device; the model must be frozen and in eval mode.

    keras: Adam's epsilon is keras'. unit_C11: what learning_rate is measured in, in pixels. best_attempt: a pair of the
    first seed that fails gives the image with the largest output on the way.
    """
    device, M = seeds_NCHW.device, len(neuron_M)
    attempted = len(seeds_NCHW) * M
    neuron_M = neuron_M.to(device)
    cases: list[tuple[Tensor, Tensor]] = []
    reached = 0

    def fresh(first: int, last: int) -> _Pool:
        pair_A = torch.arange(first, last, device=device)
        return _Pool.of(pair_A, seeds_NCHW[pair_A // M].clone(), keras=keras, best=best_attempt)

    waiting = min(chunk, attempted)
    pool = fresh(0, waiting)
    while len(pool.pair_A):
        c_A, threshold_A = neuron_M[pool.pair_A % M], threshold_M[pool.pair_A % M]
        for _ in range(CHECK_EVERY):
            _ascend(
                phi, pool, c_A, threshold_A,
                learning_rate=learning_rate, max_steps=max_steps, box=box, unit_C11=unit_C11, best=best_attempt,
            )  # fmt: skip
        done = pool.select(pool.reached_A.nonzero().squeeze(1))
        cases.append((done.pair_A.cpu(), done.x_ACHW.cpu()))
        reached += len(done.pair_A)
        if best_attempt:
            failed = pool.select((pool.over_A & ~pool.reached_A & (pool.pair_A < M)).nonzero().squeeze(1))
            cases.append((failed.pair_A.cpu(), failed.best_ACHW.cpu()))
        pool = pool.select((~pool.over_A).nonzero().squeeze(1))
        tell(waiting - len(pool.pair_A), attempted, "pairs of seed and neuron")
        room = min(chunk - len(pool.pair_A), attempted - waiting)
        if room:
            pool = pool.join(fresh(waiting, waiting + room))
            waiting += room
    pair_P, order_P = torch.cat([pair for pair, _ in cases]).sort()
    x_PCHW = torch.cat([x for _, x in cases])[order_P]
    return Fuzzed(x_PCHW=x_PCHW, neuron_P=neuron_M.cpu()[pair_P % M], attempted=attempted, reached=reached)


def fuzz_shared(
    phi: Phi, seeds_NCHW: Tensor, neuron_M: Tensor, threshold_M: Tensor, *, best_attempt: bool = False, **settings: Any
) -> Fuzzed:
    """What fuzz finds, the seeds shared among the processes."""
    shares = seeds_NCHW.tensor_split(world_size())
    own = fuzz(
        phi, shares[rank()], neuron_M, threshold_M, best_attempt=best_attempt and rank() == 0, **settings
    )  # the first process has the first seed
    return Fuzzed(
        x_PCHW=gather_ragged_rows(own.x_PCHW),
        neuron_P=gather_ragged_rows(own.neuron_P),
        attempted=sum(gather_values(own.attempted)),
        reached=sum(gather_values(own.reached)),
    )


def equally_many(fuzzed: Fuzzed, neuron_M: Tensor) -> Fuzzed:
    """As many cases of every targeted neuron as the one with the fewest has, the first ones of each."""
    fewest = min(int((fuzzed.neuron_P == c).sum()) for c in neuron_M.tolist())
    nth_P = torch.zeros_like(fuzzed.neuron_P)
    for c in neuron_M.tolist():
        own_P = fuzzed.neuron_P == c
        nth_P[own_P] = torch.arange(int(own_P.sum()))
    keep_P = nth_P < fewest
    return Fuzzed(fuzzed.x_PCHW[keep_P], fuzzed.neuron_P[keep_P], fuzzed.attempted, fuzzed.reached)


def _ascend(
    phi: Phi,
    pool: _Pool,
    c_A: Tensor,
    threshold_A: Tensor,
    *,
    learning_rate: float,
    max_steps: int,
    box: bool,
    unit_C11: Tensor | None,
    best: bool,
) -> None:
    """Looks at every pair, then moves those that are not over by one Adam step; the device is not waited for."""
    with torch.enable_grad():
        leaf_ACHW = pool.x_ACHW.detach().requires_grad_(True)
        output_A = phi(leaf_ACHW).gather(1, c_A[:, None]).squeeze(1)
        (gradient_ACHW,) = torch.autograd.grad(output_A.sum(), leaf_ACHW)
    output_A = output_A.detach()
    if best:
        more_A = (pool.steps_A > 0) & (output_A > pool.most_A) & ~pool.over_A
        pool.most_A = torch.where(more_A, output_A, pool.most_A)
        pool.best_ACHW = torch.where(more_A[:, None, None, None], pool.x_ACHW, pool.best_ACHW)
    pool.reached_A = pool.reached_A | ((pool.steps_A > 0) & (output_A > threshold_A))
    pool.over_A = pool.reached_A | (pool.steps_A >= max_steps)
    pool.steps_A = pool.steps_A + (~pool.over_A)
    age_A111 = pool.steps_A.clamp(min=1)[:, None, None, None]
    if unit_C11 is None:
        step_ACHW = pool.adam.step(gradient_ACHW, age_A111, learning_rate)
    else:
        step_ACHW = unit_C11 * pool.adam.step(unit_C11 * gradient_ACHW, age_A111, learning_rate)
    moved_ACHW = pool.x_ACHW + step_ACHW
    if box:
        moved_ACHW = moved_ACHW.clamp_(0.0, 1.0)
    pool.x_ACHW = torch.where(pool.over_A[:, None, None, None], pool.x_ACHW.detach(), moved_ACHW)
