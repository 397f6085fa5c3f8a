"""Other ways to feed an imported network: usual means and standard deviations, blue before red, the other stem.

Shapes: N images, K classes, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor

from rnet.data.batches import evaluation_batches
from rnet.data.images import Part
from rnet.models.classifier import Classifier
from rnet.rewrites.modes import device_of, frozen_eval
from rnet.training.flops import count_flops

_BATCH = 128
_LEVEL = 1 / 255
NORMALISATIONS: dict[int, dict[str, tuple[Sequence[float], Sequence[float]]]] = {
    3: {
        "none": ((0.0,) * 3, (1.0,) * 3),
        "0.5 and 0.5, as of Inception and many ViTs": ((0.5,) * 3, (0.5,) * 3),
        "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "CIFAR-10's, std of images": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "pixels of 0..255": ((0.0,) * 3, (_LEVEL,) * 3),
        "pixels of 0..255 less ImageNet's mean, as of Caffe": ((0.48501, 0.45796, 0.40760), (_LEVEL,) * 3),
    },
    1: {
        "none": ((0.0,), (1.0,)),
        "0.5 and 0.5": ((0.5,), (0.5,)),
        "MNIST's": ((0.1307,), (0.3081,)),
        "Fashion-MNIST's": ((0.2860,), (0.3530,)),
        "ImageNet's, of gray": ((0.449,), (0.226,)),
        "pixels of 0..255": ((0.0,), (_LEVEL,)),
    },
}
"""Mean and std over pixels in [0, 1] that people train with, by the number of channels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Alternative:
    """A way to feed a network. model: with the stem meant. swapped: channels from blue to red.

    changes: what differs from the import as it is, nothing for that itself. remedy: how to set it, for people.
    """

    model: Classifier
    mean_C: Sequence[float]
    std_C: Sequence[float]
    swapped: bool = False
    changes: frozenset[str] = frozenset()
    remedy: str = ""


def alternatives(
    model: Classifier, other_stem: Classifier | None, dataset_statistics: tuple[Sequence[float], Sequence[float]], *,
    colour: bool,
) -> list[Alternative]:  # fmt: skip
    """The import as it is, then everything else to be tried. colour: the images have colours, so that order matters.

    other_stem: the same weights behind the other stem, where the file fits both. dataset_statistics: mean and std.
    """
    mean_C, std_C = model.mean.flatten().tolist(), model.std.flatten().tolist()
    usual = dict(NORMALISATIONS.get(len(mean_C), {}))
    own = [list(values) * (len(mean_C) // len(values)) for values in dataset_statistics]
    if len(own[0]) == len(mean_C):
        usual["the data set's own"] = (own[0], own[1])
    ways: list[tuple[str, Sequence[float], Sequence[float]]] = [("", mean_C, std_C)]
    ways += [(name, *both) for name, both in usual.items() if not _same(both, (mean_C, std_C))]
    orders = (False, True) if colour and len(mean_C) == 3 else (False,)
    found = [_alternative(model, *way, swapped=swapped) for way in ways for swapped in orders]
    if other_stem is not None:
        found += [_alternative(other_stem, *way, stem=other_stem.about["model"]["stem"]) for way in ways]
    return found


def _alternative(
    model: Classifier,
    name: str,
    mean_C: Sequence[float],
    std_C: Sequence[float],
    *,
    swapped: bool = False,
    stem: str = "",
) -> Alternative:
    remedies = {}
    if stem:
        remedies["stem"] = f"set model.stem={stem}"
    if name:
        mean, std = (",".join(f"{value:.6g}" for value in values) for values in (mean_C, std_C))
        remedies["normalisation"] = f"set model.mean=[{mean}] model.std=[{std}] ({name})"
    if swapped:
        remedies["order of channels"] = (
            "it takes blue, green, red: turn its first convolution around in the file (weight.flip(1))"
        )
    return Alternative(
        model=model, mean_C=mean_C, std_C=std_C, swapped=swapped, changes=frozenset(remedies),
        remedy="; ".join(remedies.values()),
    )  # fmt: skip


@torch.no_grad()
def logits_of(ways: Sequence[Alternative], part: Part) -> list[Tensor]:
    """Logits (N, K) of each way for all images of a part, float32 on the CPU; each image is read once."""
    device = device_of(ways[0].model)
    found: list[list[Tensor]] = [[] for _ in ways]
    with frozen_eval(*{id(way.model): way.model for way in ways}.values()):
        for x_BCHW, _ in evaluation_batches(part, _BATCH, device):
            for way, logits in zip(ways, found, strict=True):
                with _fed(way):
                    logits.append(way.model(x_BCHW.flip(1) if way.swapped else x_BCHW).float().cpu())
    return [torch.cat(logits) for logits in found]


def clearly_better(right_N: Tensor, than_N: Tensor, margin: float) -> bool:
    """Whether one way is right more often than another on the same images, by the margin and beyond chance.

    Beyond chance: of the images on which they differ, as many for the one have a probability below 0.001 were both
    equally good (sign test).
    """
    won, lost = int((right_N & ~than_N).sum()), int((~right_N & than_N).sum())
    return (won - lost) / len(right_N) >= margin and float(binom.sf(won - 1, won + lost, 0.5)) < 1e-3


def flops_of(model: Classifier, part: Part) -> int:
    """FLOPs of one image."""
    x_BCHW = part.pixels(torch.tensor([0]), device_of(model))
    with frozen_eval(model), torch.no_grad():
        return max(1, count_flops(lambda: model(x_BCHW)))


@contextmanager
def _fed(way: Alternative) -> Iterator[None]:
    """Inside, the model normalises in that way."""
    before = way.model.mean, way.model.std
    try:
        for name, values in (("mean", way.mean_C), ("std", way.std_C)):
            setattr(way.model, name, torch.tensor(list(values), device=before[0].device).view(1, -1, 1, 1))
        yield
    finally:
        way.model.mean, way.model.std = before


def _same(a: tuple[Sequence[float], Sequence[float]], b: tuple[Sequence[float], Sequence[float]]) -> bool:
    return all(abs(x - y) < 0.003 for ones, others in zip(a, b, strict=True) for x, y in zip(ones, others, strict=True))
