"""DeepJudge's neurons, their outputs, and LOD, LAD, NOD, NAD on cases that drive them beyond anything in training.

Source: Chen et al., "Copy, Right? A Testing Framework for Copyright Protection of Deep Learning Models", IEEE S&P 2022.
A neuron is a channel of the cut layer; its output phi is the channel's mean over positions (over tokens in a ViT).
Shapes: N images, B of them at once, P cases, C channels (of images in x, of the cut layer in phi), H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnet.cutting.split import SplitModel, channel_axis
from rnet.data.images import Part
from rnet.defenses.deepjudge.fuzzing import Phi
from rnet.parallel.collectives import map_rows


def neuron_outputs(split: SplitModel, *, neuron: str = "channel") -> Phi:
    """The function phi of a split model: its layer's output averaged over everything but batch and channels.

    neuron="column": averaged over everything but batch and the *last* axis, which in a CNN is the image's width.
    """

    def phi(x_BCHW: Tensor) -> Tensor:
        z = split.head(x_BCHW)
        axis = z.ndim - 1 if neuron == "column" else channel_axis(z)
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
