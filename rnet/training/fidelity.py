"""Fidelity: does a suspect still do the victim's job?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rnet.data.batches import evaluation_batch_size, evaluation_batches
from rnet.data.images import Part
from rnet.errors import UserError
from rnet.models.black_box import map_images
from rnet.rewrites.modes import device_of, frozen_eval


@torch.no_grad()
def predict(model: nn.Module, part: Part, *, batch_size: int | None = None, who: str | None = None) -> Tensor:
    """The model's class for every image of a part, in eval mode: int64 (N,) on the CPU; processes share the work,
    but for a black box, which the first one asks.

    batch_size: None for 512 small images, or fewer large ones. who: what the model is called in the UserError that is
    raised if it answers with what is no number. Who asks more than once moves images in memory to the model's device
    first (Part.to).
    """
    device = device_of(model)
    batch_size = batch_size or evaluation_batch_size(part)

    def labels(indices_N: Tensor) -> tuple[Tensor, Tensor]:
        batches = evaluation_batches(part.subset(indices_N), batch_size, device)
        answers = [(logits_BK.argmax(dim=1), _is_answer(logits_BK)) for logits_BK in (model(x) for x, _ in batches)]
        return torch.cat([label_B for label_B, _ in answers]), torch.cat([good_B for _, good_B in answers])

    with frozen_eval(model):
        labels_N, good_N = map_images(model, labels, torch.arange(len(part)))
    if who is not None and not good_N.all():
        raise UserError(
            f"{who} answers {int((~good_N).sum())} of {len(part)} test images with numbers that are not finite; its "
            f"weights are damaged, or its training diverged"
        )
    labels_on_cpu_N: Tensor = labels_N.cpu()
    return labels_on_cpu_N


def _is_answer(logits_BK: Tensor) -> Tensor:
    """Whether each row is one: the logarithm of a probability may be -inf."""
    return ~(logits_BK.isnan() | logits_BK.isposinf()).any(dim=1)


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
        return {f"fidelity/{name}": found[name] for name in ("accuracy", "agreement") if name in found}

    return measure
