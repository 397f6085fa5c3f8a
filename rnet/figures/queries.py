"""The fingerprint's own queries, with the label that each model gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rnet.figures.drawing import DERIVED, INDEPENDENT, MUTED, Drawing, Line, cut, drawing
from rnet.figures.models import SideBySide, logits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6


def queries(name: str, title: str, beside: SideBySide, queries_NCHW: Tensor, labels_N: Tensor) -> Drawing:
    """The first of the queries as images, below them the models' answers; the data has all queries.

    labels_N: the victim's own answers, as the fingerprint has them.
    """
    said = {one: logits(model, queries_NCHW).argmax(dim=1) for one, model in beside.there().items()}
    lines: list[dict[str, Any]] = [
        {
            "query": number, "model": one, "model_says": beside.called(int(label)),
            "victim_says": beside.called(int(labels_N[number])), "same": int(label == labels_N[number]),
        }
        for one, answers_N in said.items()
        for number, label in enumerate(answers_N)
    ]  # fmt: skip
    lines += [{"query": "all", "model": one, "missing": why} for one, why in beside.missing().items()]
    shown = min(SHOWN, len(queries_NCHW))

    def draw(figure: Figure, complete: Sequence[Line]) -> None:
        heights = [2.4, *(1 for _ in beside.models)]
        grid: Any = figure.subplots(len(heights), shown, squeeze=False, height_ratios=heights)
        answers = {(line["model"], line["query"]): line for line in complete}
        for column in range(shown):
            pixels = queries_NCHW[column].detach().cpu().clamp(0, 1).permute(1, 2, 0).squeeze(2)
            grid[0][column].imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
            grid[0][column].set_title(cut(beside.called(int(labels_N[column])), 9), loc="center")
            for row, one in enumerate(beside.models, start=1):
                line = answers.get((one, column))
                text = "missing" if line is None else f"{cut(line['model_says'], 9)} {'=' if line['same'] else 'x'}"
                colour = MUTED if line is None else DERIVED if line["same"] else INDEPENDENT
                grid[row][column].text(0.5, 0.5, text, ha="center", va="center", color=colour, fontsize=10)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for row, one in enumerate(beside.models, start=1):
            grid[row][0].set_ylabel(cut(one, 18), rotation=0, ha="right", va="center")

    shares = ", ".join(f"{one} {float((a == labels_N).float().mean()):.0%}" for one, a in said.items())
    return drawing(
        draw, name=name, title=title, lines=lines, needs=("same",),
        size=(1.3 + 0.85 * shown, 1.1 + 0.36 * len(beside.models)),
        label=lambda line: f"{line['model']}, query {line['query']}",
        caption=f"The first {shown} of {len(labels_N)} queries with the victim's answer above them. '=' and red: the "
        f"victim's answer. Of all queries the same: {shares or 'nobody answers'}.",
    )  # fmt: skip
