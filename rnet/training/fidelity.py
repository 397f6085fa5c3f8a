"""Fidelity: does a suspect still do the victim's job?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rnet.data.batches import evaluation_batches
from rnet.data.images import Part
from rnet.models.black_box import map_images
from rnet.rewrites.modes import device_of, frozen_eval


@torch.no_grad()
def predict(model: nn.Module, part: Part, *, batch_size: int = 512) -> Tensor:
    """The model's class for every image of a part, in eval mode: int64 (N,) on the CPU; processes share the work,
    but for a black box, which the first one asks.

    Who asks more than once moves images in memory to the model's device first (Part.to).
    """
    device = device_of(model)

    def labels(indices_N: Tensor) -> Tensor:
        batches = evaluation_batches(part.subset(indices_N), batch_size, device)
        return torch.cat([model(x_BCHW).argmax(dim=1) for x_BCHW, _ in batches])

    with frozen_eval(model):
        return map_images(model, labels, torch.arange(len(part))).cpu()


def fidelity(labels_N: Tensor, suspect_N: Tensor, victim_N: Tensor | None = None) -> dict[str, float]:
    """Accuracy in [0, 1] of a suspect's predictions; beside a victim's also the drop and the agreement with it.

    chance: the accuracy of who always says the most frequent label.
    """
    accuracy = share_equal(suspect_N, labels_N)
    chance = labels_N.bincount().max().item() / len(labels_N)
    if victim_N is None:
        return {"accuracy": accuracy, "chance": chance}
    victim_accuracy = share_equal(victim_N, labels_N)
    return {
        "accuracy": accuracy,
        "chance": chance,
        "victim_accuracy": victim_accuracy,
        "drop": victim_accuracy - accuracy,
        "agreement": share_equal(suspect_N, victim_N),
    }


def share_equal(a_N: Tensor, b_N: Tensor) -> float:
    """Share of positions at which two label vectors agree."""
    return (a_N == b_N).double().mean().item()


def measure_on(part: Part, victim_N: Tensor | None = None) -> Callable[[nn.Module], dict[str, float]]:
    """A measurement for the training loop: accuracy (and agreement with a victim's predictions) on a part."""

    def measure(model: nn.Module) -> dict[str, float]:
        found = fidelity(part.labels_N, predict(model, part), victim_N)
        return {f"{name}/test": found[name] for name in ("accuracy", "agreement") if name in found}

    return measure
