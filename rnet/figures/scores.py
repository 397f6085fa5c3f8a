"""Scores of suspects and of their negatives beside the thresholds, one panel for each metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rnet.figures.drawing import INK, MUTED, RULE, VERDICTS, Drawing, Line, cut, drawing, grid, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEGATIVES = "independent models"
"""The row of the models that thresholds are made from."""
FEWEST_FOR_A_BOX = 4


def scores(name: str, title: str, lines: Sequence[Line]) -> Drawing:
    """lines: metric, suspect (the row), score, direction, threshold (None: there is none), verdict ("" of a negative).

    A row with several models of four or more is also a box: median, quartiles, whiskers to 1.5 times their distance.
    """
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    rows = _rows(lines)
    down, across = panels(len(metrics))
    size = (6.6 if across == 1 else 2.1 + 2.75 * across, (0.26 * len(rows) + 0.85) * down + 0.55)

    def draw(figure: Figure, complete: Sequence[Line]) -> None:
        for axes, metric, _, _ in grid(figure, metrics, share_rows=True):
            _panel(axes, rows, [one for one in complete if one["metric"] == metric])
        _legend(figure, complete)

    return drawing(
        draw, name=name, title=title, lines=lines, needs=("score",), size=size,
        label=lambda line: f"{line['suspect']}, {line['metric']}",
        caption="One mark per model; the colour and shape are the metric's own verdict. An upright bar is the "
        "threshold that the model was judged by; no bar: there is no threshold. The arrow points to what is called "
        "derived.",
    )  # fmt: skip


def _rows(lines: Sequence[Line]) -> list[str]:
    rows = list(dict.fromkeys(str(line["suspect"]) for line in lines))
    return [row for row in rows if row != NEGATIVES] + [row for row in rows if row == NEGATIVES]


def _panel(axes: Axes, rows: Sequence[str], lines: Sequence[Line]) -> None:
    towards = {str(line["direction"]) for line in lines}
    arrow = "derived \N{RIGHTWARDS ARROW}" if towards == {"similarity"} else "\N{LEFTWARDS ARROW} derived"
    axes.set_xlabel(arrow if lines else "no score")
    axes.set_yticks(range(len(rows)), [cut(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(length=0, axis="y")
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    grey = {"color": MUTED}
    values = [np.array([line["score"] for line in lines if line["suspect"] == row]) for row in rows]
    if boxed := [place for place, found in enumerate(values) if len(found) >= FEWEST_FOR_A_BOX]:
        axes.boxplot(
            [values[place] for place in boxed], positions=boxed, orientation="horizontal", widths=0.6,
            showfliers=False, showcaps=False, manage_ticks=False, boxprops=grey, whiskerprops=grey, medianprops=grey,
        )  # fmt: skip
    heights = _heights(lines, rows)
    for label, mark, colour in _KINDS:
        own = [number for number, line in enumerate(lines) if line["verdict"] == label]
        if own:
            axes.plot(
                [lines[number]["score"] for number in own], [heights[number] for number in own], marker=mark,
                color=colour, linestyle="none", markersize=5, markeredgewidth=1.2 if mark == "x" else 0, alpha=0.85,
            )  # fmt: skip
    judged = {(line["threshold"], rows.index(line["suspect"])) for line in lines if line["threshold"] is not None}
    if judged:
        axes.vlines(
            [threshold for threshold, _ in sorted(judged)], [place - 0.38 for _, place in sorted(judged)],
            [place + 0.38 for _, place in sorted(judged)], color=INK, linewidth=1.4,
        )  # fmt: skip
    axes.spines["left"].set_color(RULE)


_KINDS = (
    ("derived", "o", VERDICTS["derived"]),
    ("undecided", "s", VERDICTS["undecided"]),
    ("independent", "^", VERDICTS["independent"]),
    ("", "x", MUTED),
)


def _heights(lines: Sequence[Line], rows: Sequence[str]) -> list[float]:
    """Of each line, around its row, so that equal scores do not hide each other; the same every time."""
    of_row = {row: [number for number, line in enumerate(lines) if line["suspect"] == row] for row in rows}
    found = [0.0] * len(lines)
    for place, numbers in enumerate(of_row.values()):
        for number, shift in zip(numbers, np.linspace(-0.2, 0.2, len(numbers)), strict=True):
            found[number] = place + (float(shift) if len(numbers) > 1 else 0.0)
    return found


def _legend(figure: Figure, lines: Sequence[Line]) -> None:
    from matplotlib.lines import Line2D

    there = {line["verdict"] for line in lines}
    handles = [
        Line2D([], [], marker=mark, color=colour, linestyle="none", markersize=5, label=label or "negative, not judged")
        for label, mark, colour in _KINDS
        if label in there
    ]
    if any(line["threshold"] is not None for line in lines):
        handles.append(Line2D([], [], marker="|", color=INK, linestyle="none", markersize=10, label="threshold"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
