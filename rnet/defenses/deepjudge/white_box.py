"""DeepJudge's white-box half: neurons driven beyond anything seen in training, and LOD, LAD, NOD, NAD on what results.

Source: Chen et al., "Copy, Right? A Testing Framework for Copyright Protection of Deep Learning Models", IEEE S&P 2022.
A neuron is a channel of the cut layer; its output phi is the channel's mean over positions (over tokens in a ViT).
Shapes: N seeds, M targeted neurons, P cases (a seed driven towards one neuron), A pairs being searched, C channels
(of images in x, of the cut layer in phi), H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnet.cutting.split import SplitModel, channel_axis
from rnet.data.images import Part
from rnet.defenses.row_adam import RowAdam
from rnet.parallel.collectives import gather_objects, map_rows, rank, world_size

Phi = Callable[[Tensor], Tensor]
"""Pixels (B, C, H, W) -> neuron outputs (B, C of the layer), differentiable."""

CHECK_EVERY = 20  # steps between two looks at which pairs are over: each look waits for the device


@dataclass(frozen=True)
class Fuzzed:
    """Test cases: x_PCHW the images, neuron_P the neuron (an index into the layer) each was made for; on the CPU.

    attempted: pairs tried. What did not reach its threshold is not among the cases.
    """

    x_PCHW: Tensor
    neuron_P: Tensor
    attempted: int


def neuron_outputs(split: SplitModel, *, image_columns: bool = False) -> Phi:
    """The function phi of a split model: its layer's output averaged over everything but batch and channels.

    image_columns: the released port's neurons, averaged over everything but batch and the *last* axis, which in a CNN
    is the image's width.
    """

    def phi(x_BCHW: Tensor) -> Tensor:
        z = split.head(x_BCHW)
        axis = z.ndim - 1 if image_columns else channel_axis(z)
        z_BC = z.movedim(axis, 1)
        return z_BC.flatten(2).mean(dim=2) if z_BC.ndim > 2 else z_BC

    return phi


def outputs_in_chunks(phi: Phi, x_NCHW: Tensor, chunk: int, device: torch.device) -> Tensor:
    """Neuron outputs (N, C) of images on any device, without gradient, `chunk` at a time; on `device`."""

    def outputs(share_NCHW: Tensor) -> Tensor:
        return torch.cat([phi(x_BCHW.to(device)) for x_BCHW in share_NCHW.split(chunk)])

    with torch.no_grad():
        return map_rows(outputs, x_NCHW)


def largest_outputs(phi: Phi, part: Part, count: int, chunk: int, device: torch.device) -> Tensor:
    """Largest output of every neuron over the first `count` images of a part, (C,)."""
    maximum_C: Tensor | None = None
    for indices_B in torch.arange(min(count, len(part))).split(chunk):
        chunk_C = outputs_in_chunks(phi, part.pixels(indices_B), chunk, device).amax(dim=0)
        maximum_C = chunk_C if maximum_C is None else torch.maximum(maximum_C, chunk_C)
    assert maximum_C is not None, "the part is empty"
    return maximum_C


@dataclass
class _Pool:
    """The pairs being searched at the moment, each with its own image, Adam state and number of steps."""

    pair_A: Tensor
    x_ACHW: Tensor
    adam: RowAdam
    steps_A: Tensor
    reached_A: Tensor
    over_A: Tensor

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
) -> Fuzzed:
    """Ascends phi_c from every seed for every neuron c until it exceeds the neuron's threshold; the cases that did.

    Every (seed, neuron) pair has its own Adam, at most max_steps steps, clamped to [0, 1] if box, and stops after the
    first step that brings phi_c above the threshold. Adam is elementwise, so pairs share a batch of up to `chunk`
    images without influencing each other; places of finished pairs go to waiting ones. Cases are ordered by seed, then
    by neuron. seeds_NCHW and threshold_M live on the model's device; the model must be frozen and in eval mode.
    """
    device, M = seeds_NCHW.device, len(neuron_M)
    attempted = len(seeds_NCHW) * M
    neuron_M = neuron_M.to(device)
    cases: list[tuple[Tensor, Tensor]] = []

    def fresh(first: int, last: int) -> _Pool:
        pair_A = torch.arange(first, last, device=device)
        x_ACHW = seeds_NCHW[pair_A // M].clone()
        false_A = torch.zeros_like(pair_A, dtype=torch.bool)
        return _Pool(pair_A, x_ACHW, RowAdam.start(x_ACHW), torch.zeros_like(pair_A), false_A, false_A)

    waiting = min(chunk, attempted)
    pool = fresh(0, waiting)
    while len(pool.pair_A):
        c_A, threshold_A = neuron_M[pool.pair_A % M], threshold_M[pool.pair_A % M]
        for _ in range(CHECK_EVERY):
            _ascend(phi, pool, c_A, threshold_A, learning_rate=learning_rate, max_steps=max_steps, box=box)
        done = pool.select(pool.reached_A.nonzero().squeeze(1))
        cases.append((done.pair_A.cpu(), done.x_ACHW.cpu()))
        pool = pool.select((~pool.over_A).nonzero().squeeze(1))
        room = min(chunk - len(pool.pair_A), attempted - waiting)
        if room:
            pool = pool.join(fresh(waiting, waiting + room))
            waiting += room
    pair_P, order_P = torch.cat([pair for pair, _ in cases]).sort()
    x_PCHW = torch.cat([x for _, x in cases])[order_P]
    return Fuzzed(x_PCHW=x_PCHW, neuron_P=neuron_M.cpu()[pair_P % M], attempted=attempted)


def fuzz_shared(phi: Phi, seeds_NCHW: Tensor, neuron_M: Tensor, threshold_M: Tensor, **settings: Any) -> Fuzzed:
    """What fuzz finds, the seeds shared among the processes."""
    shares = seeds_NCHW.tensor_split(world_size())
    own = fuzz(phi, shares[rank()], neuron_M, threshold_M, **settings)
    found = gather_objects(own)
    return Fuzzed(
        x_PCHW=torch.cat([part.x_PCHW for part in found]),
        neuron_P=torch.cat([part.neuron_P for part in found]),
        attempted=sum(part.attempted for part in found),
    )


def _ascend(
    phi: Phi, pool: _Pool, c_A: Tensor, threshold_A: Tensor, *, learning_rate: float, max_steps: int, box: bool
) -> None:
    """Looks at every pair, then moves those that are not over by one Adam step; the device is not waited for."""
    with torch.enable_grad():
        leaf_ACHW = pool.x_ACHW.detach().requires_grad_(True)
        output_A = phi(leaf_ACHW).gather(1, c_A[:, None]).squeeze(1)
        (gradient_ACHW,) = torch.autograd.grad(output_A.sum(), leaf_ACHW)
    pool.reached_A = pool.reached_A | ((pool.steps_A > 0) & (output_A.detach() > threshold_A))
    pool.over_A = pool.reached_A | (pool.steps_A >= max_steps)
    pool.steps_A = pool.steps_A + (~pool.over_A)
    age_A111 = pool.steps_A.clamp(min=1)[:, None, None, None]
    moved_ACHW = pool.x_ACHW + pool.adam.step(gradient_ACHW, age_A111, learning_rate)
    if box:
        moved_ACHW = moved_ACHW.clamp_(0.0, 1.0)
    pool.x_ACHW = torch.where(pool.over_A[:, None, None, None], pool.x_ACHW.detach(), moved_ACHW)


def activated(phi_PC: Tensor) -> Tensor:
    """Active neurons, bool (P, C): output, rescaled to [0, 1] over the channels of each input, above .5."""
    low_P1, high_P1 = phi_PC.amin(dim=1, keepdim=True), phi_PC.amax(dim=1, keepdim=True)
    return (phi_PC - low_P1) / (high_P1 - low_P1 + 1e-6) > 0.5


def whitebox_distances(victim_PC: Tensor, suspect_PC: Tensor, neuron_P: Tensor, num_neurons: int) -> dict[str, float]:
    """LOD, LAD, NOD and NAD from both models' neuron outputs on the cases; all >= 0, and 0 for the victim itself.

    neuron_P: the neuron each case was made for. Means over the cases of: lod, the l2 distance of all outputs; lad, how
    many neurons are active in one model only; nod, |difference| of the case's own neuron. nad: the share of cases whose
    own neuron is active in one model only, times num_neurons, the number of targeted neurons.
    """
    victim_PC, suspect_PC = victim_PC.double(), suspect_PC.double().to(victim_PC.device)
    difference_PC = victim_PC - suspect_PC
    flipped_PC = activated(victim_PC) != activated(suspect_PC)
    own_P1 = neuron_P.to(victim_PC.device)[:, None]
    return {
        "lod": float(torch.linalg.vector_norm(difference_PC, dim=1).mean()),
        "lad": float(flipped_PC.double().sum(dim=1).mean()),
        "nod": float(difference_PC.gather(1, own_P1).abs().mean()),
        "nad": float(flipped_PC.gather(1, own_P1).double().mean() * num_neurons),
    }
