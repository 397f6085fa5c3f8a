"""Decision boundaries on the plane through three images, the same plane for every model.

After G. Somepalli et al., "Can Neural Networks Learn the Same Model Twice?", CVPR 2022.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnet.figures.drawing import Drawing, Line, cut, drawing
from rnet.figures.models import SideBySide, logits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN = 0.35
"""How far the plane reaches beyond its images, in lengths of its sides."""


def planes(name: str, title: str, beside: SideBySide) -> Drawing:
    """Through the first three images; fewer points of large images are asked about."""
    side = 48 if beside.images_BCHW.shape[-1] <= 32 else 24 if beside.images_BCHW.shape[-1] <= 64 else 12
    points_PCHW, corners_32, extent = plane(beside.images_BCHW[:3], side)
    said = {one: logits(model, points_PCHW).argmax(dim=1) for one, model in beside.there().items()}
    victim = next(iter(said.values()), None)
    lines: list[dict[str, Any]] = []
    for one, labels_P in said.items():
        counts = Counter(labels_P.tolist())
        shares = ", ".join(
            f"{beside.called(label)} {count / len(labels_P):.1%}" for label, count in counts.most_common()
        )
        agreement = 0.0 if victim is None else share_equal(labels_P, victim)
        lines.append({"model": one, "agreement_with_victim": agreement, "classes": len(counts), "shares": shares})
    lines += [{"model": one, "missing": why} for one, why in beside.missing().items()]
    order = sorted({label for labels_P in said.values() for label in labels_P.tolist()})

    def draw(figure: Figure, complete: Sequence[Line]) -> None:
        from matplotlib import colormaps
        from matplotlib.colors import ListedColormap, to_hex
        from matplotlib.patches import Patch

        # Not the page's colours: the picture is made of pixels, which no theme changes, and its legend must fit it.
        colours = [to_hex(colormaps["tab20"](place % 20)) for place in range(len(order))]
        grid: Any = figure.subplots(1, len(complete), squeeze=False)
        for axes, line in zip(grid[0], complete, strict=True):
            places_HW = torch.tensor([order.index(label) for label in said[line["model"]].tolist()]).view(side, side)
            axes.imshow(
                places_HW.numpy(), origin="lower", extent=extent, cmap=ListedColormap(colours), vmin=-0.5,
                vmax=len(order) - 0.5,
            )  # fmt: skip
            for number, (x, y) in enumerate(corners_32.tolist()):
                axes.plot(x, y, marker="o", color="white", markersize=8, markeredgecolor="black")
                axes.annotate(str(number), (x, y), ha="center", va="center", fontsize=6, color="black")
            axes.set(xticks=[], yticks=[])
            axes.set_title(cut(str(line["model"]), 18))
            axes.set_xlabel(f"{100 * line['agreement_with_victim']:.0f} % as the victim")
        handles = [Patch(color=colour, label=cut(beside.called(label), 14))
                   for colour, label in list(zip(colours, order, strict=True))[:20]]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * len(complete)))

    labels = ", ".join(f"{number}: {beside.called(int(label))}" for number, label in enumerate(beside.labels_B[:3]))
    return drawing(
        draw, name=name, title=title, lines=lines, needs=("agreement_with_victim",),
        size=(1.9 * max(len(said), 2) + 0.2, 2.9), label=lambda line: str(line["model"]),
        caption=f"Each colour is a class that the model names, on the plane through three test images ({labels}). "
        f"{side} x {side} points; below each the share on which the model says what the victim says.",
    )  # fmt: skip


def share_equal(one_P: Tensor, other_P: Tensor) -> float:
    """On which share both say the same."""
    return int((one_P == other_P).sum()) / len(one_P)


def plane(images_3CHW: Tensor, side: int) -> tuple[Tensor, Tensor, tuple[float, float, float, float]]:
    """side * side pixels images (P, C, H, W) of the plane, the images' places on it (3, 2), and the plane's extent.

    The first image is the origin, the second lies on the x axis at 1; y is orthogonal, in the same unit. Rows go up.
    """
    first, second, third = images_3CHW
    along = second - first
    length = along.norm()
    towards = third - first
    share = float((towards * along).sum() / length**2)
    across = towards - share * along
    height = float(across.norm() / length)
    across = across / across.norm() * length
    left, right = min(0.0, share) - MARGIN, max(1.0, share) + MARGIN
    low, high = -MARGIN, height + MARGIN
    xs = torch.linspace(left, right, side, device=first.device)
    ys = torch.linspace(low, high, side, device=first.device)
    points = first + xs.view(1, -1, 1, 1, 1) * along + ys.view(-1, 1, 1, 1, 1) * across
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [share, height]])
    return points.flatten(0, 1), corners, (left, right, low, high)
