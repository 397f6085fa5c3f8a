"""Latents at the cut in two dimensions: the same images and the same projection (PCA) for all models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnet.cutting.split import SplitModel
from rnet.errors import UserError
from rnet.figures.drawing import MARKS, SERIES, Drawing, Line, cut, drawing
from rnet.figures.models import SideBySide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POOLED = 4
"""Maps larger than this many places a side are pooled to it."""


def embedding(name: str, title: str, beside: SideBySide, layer: str) -> Drawing:
    """A panel per model; models that cannot be cut at the layer, or whose latents have other shapes, are missing."""
    missing = beside.missing()
    found: dict[str, Tensor] = {}
    for one, model in beside.there().items():
        try:
            latents = latents_of(model, layer, beside.images_BCHW)
        except UserError as error:
            missing[one] = str(error)
            continue
        if found and latents.shape != next(iter(found.values())).shape:
            missing[one] = "its latents have another shape than the victim's"
        elif not latents.isfinite().all():
            missing[one] = "its latents are not finite"
        else:
            found[one] = latents
    lines: list[dict[str, Any]] = []
    explained = 0.0
    if found:
        from sklearn.decomposition import PCA

        pca = PCA(n_components=2, svd_solver="full")
        together = pca.fit_transform(torch.cat([*found.values()]).double().numpy())
        explained = float(pca.explained_variance_ratio_.sum())
        places = dict(zip(found, together.reshape(len(found), -1, 2), strict=True))
        lines = [
            {
                "model": one, "image": number, "class": beside.called(int(beside.labels_B[number])), "x": float(x),
                "y": float(y),
            }
            for one, of in places.items()
            for number, (x, y) in enumerate(of)
        ]  # fmt: skip
    lines += [{"model": one, "missing": why} for one, why in missing.items()]
    classes = sorted({int(label) for label in beside.labels_B.tolist()})

    def draw(figure: Figure, complete: Sequence[Line]) -> None:
        grid: Any = figure.subplots(2, len(found), squeeze=False)
        for axes, one in [*zip(grid[0], found, strict=True), *zip(grid[1], found, strict=True)]:
            for place, label in enumerate(classes):
                own = [o for o in complete if o["model"] == one and o["class"] == beside.called(label)]
                axes.plot(
                    [o["x"] for o in own], [o["y"] for o in own], linestyle="none", markersize=4,
                    marker=MARKS[(place // len(SERIES) + place) % len(MARKS)], color=SERIES[place % len(SERIES)],
                    markeredgewidth=0, alpha=0.8, label=cut(beside.called(label), 14) if axes is grid[0][0] else None,
                )  # fmt: skip
            axes.tick_params(labelbottom=False, labelleft=False, length=0)
        for upper, one in zip(grid[0], found, strict=True):
            upper.set_title(cut(one, 18))
            for axis, name in ((upper.set_xlim, "x"), (upper.set_ylim, "y")):
                values = [float(line[name]) for line in complete]
                margin = 0.05 * (max(values) - min(values)) or 1.0
                axis(min(values) - margin, max(values) + margin)
        grid[0][0].set_ylabel("one scale")
        grid[1][0].set_ylabel("each its own")
        if len(classes) <= 20:
            figure.legend(loc="outside lower center", ncols=min(len(classes), 3 * len(found)))

    return drawing(
        draw, name=name, title=title, lines=lines, needs=("x", "y"), size=(1.95 * max(len(found), 2) + 0.3, 4.0),
        label=lambda line: str(line["model"]),
        caption=f"{len(beside.labels_B)} test images at {layer!r}, on the first two principal components of all models "
        f"together, which hold {explained:.0%} of the variance. Colour and shape: the class. Above, "
        "all panels have one scale; below, each its own.",
    )  # fmt: skip


def latents_of(model: nn.Module, layer: str, x_BCHW: Tensor) -> Tensor:
    """(B, D) on the CPU: what the layer returns, maps pooled to POOLED a side. Raises UserError if it cannot be cut."""
    split = SplitModel(model, layer)
    with torch.no_grad():
        z = torch.cat([split.head(part).float().cpu() for part in x_BCHW.split(64)])
    if z.dim() == 4 and z.shape[-1] > POOLED:
        z = F.adaptive_avg_pool2d(z, POOLED)
    return z.flatten(1)
