"""Where each model looks: integrated gradients of the class that the victim names, on the same images.

M. Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, by captum; against a black image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rnet.figures.drawing import INK, MUTED, Drawing, Line, cut, drawing
from rnet.figures.models import SideBySide, logits, require_captum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

STEPS = 16


def saliency(name: str, title: str, beside: SideBySide) -> Drawing:
    """One row per image, one column per model. Raises UserError where captum is not installed."""
    require_captum()
    there = beside.there()
    victim = next(iter(there), None)
    maps: dict[str, Tensor] = {}
    lines: list[dict[str, Any]] = []
    if victim is not None:
        named_B = logits(there[victim], beside.images_BCHW).argmax(dim=1)
        maps = {one: attribution(model, beside.images_BCHW, named_B) for one, model in there.items()}
        for one, model in there.items():
            shares_BK = logits(model, beside.images_BCHW).softmax(dim=1)
            lines += [
                {
                    "image": number, "class": beside.called(int(beside.labels_B[number])), "model": one,
                    "model_says": beside.called(int(shares_BK[number].argmax())),
                    "confidence": float(shares_BK[number].max()),
                    "likeness_to_victim": _cosine(maps[one][number], maps[victim][number]),
                }
                for number in range(len(beside.labels_B))
            ]  # fmt: skip
    lines += [{"image": "all", "model": one, "missing": why} for one, why in beside.missing().items()]
    rows, columns = len(beside.labels_B), 1 + len(beside.models)

    def draw(figure: Figure, complete: Sequence[Line]) -> None:
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        shown = {(line["image"], line["model"]): line for line in complete}
        for row in range(rows):
            _picture(grid[row][0], beside.images_BCHW[row].cpu())
            grid[row][0].set_ylabel(cut(beside.called(int(beside.labels_B[row])), 14))
            for place, one in enumerate(beside.models, start=1):
                axes = grid[row][place]
                axes.set(xticks=[], yticks=[])
                line = shown.get((row, one))
                if line is None:
                    axes.text(0.5, 0.5, "missing", ha="center", va="center", transform=axes.transAxes, color=MUTED)
                    continue
                axes.imshow(maps[one][row].numpy(), cmap="magma")
                axes.set_xlabel(cut(f"{line['model_says']}, {100 * line['confidence']:.0f} %", 22), color=INK)
        for place, one in enumerate(["image", *beside.models]):
            grid[0][place].set_title(cut(one, 18))

    return drawing(
        draw, name=name, title=title, lines=lines, needs=("confidence", "likeness_to_victim"),
        size=(1.4 * columns, 1.5 * rows + 0.3), label=lambda line: f"{line['model']}, image {line['image']}",
        caption="Integrated gradients of the class that the victim names, brightest where the model looks most; below "
        "each what the model says. likeness: the cosine of a map with the victim's.",
    )  # fmt: skip


def attribution(model: nn.Module, x_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """(B, H, W) on the CPU: the absolute integrated gradient of the class's logit, summed over channels."""
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        found = IntegratedGradients(model).attribute(
            x_BCHW.detach().clone(), target=labels_B.to(x_BCHW.device), n_steps=STEPS, internal_batch_size=64
        )
    return found.detach().abs().sum(dim=1).float().cpu()


def _picture(axes: Any, image_CHW: Tensor) -> None:
    axes.set(xticks=[], yticks=[])
    axes.imshow(image_CHW.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)


def _cosine(one_HW: Tensor, other_HW: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one_HW.flatten(), other_HW.flatten(), dim=0))
