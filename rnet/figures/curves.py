"""Curves over training, from what runs logged: one panel for each curve, one line for each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rnet.figures.drawing import SERIES, STYLES, Drawing, Line, cut, drawing, grid, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(name: str, title: str, lines: Sequence[Line], order: Sequence[str] = ()) -> Drawing:
    """lines: curve (the panel), run, step, value; a run's in order of its steps.

    order: all runs, by which they get their colours, so that a run has the same one in every figure.
    """
    names = list(dict.fromkeys(str(line["curve"]) for line in lines))
    there = {str(line["run"]) for line in lines if line.get("value") is not None}
    runs = list(dict.fromkeys([*order, *(str(line["run"]) for line in lines)]))
    down, across = panels(len(names))

    def draw(figure: Figure, complete: Sequence[Line]) -> None:
        for axes, curve, last_row, _ in grid(figure, names):
            axes.grid(linewidth=0.6)
            if last_row:
                axes.set_xlabel("step")
            for place, run in enumerate(runs):
                if run not in there:
                    continue
                points = [one for one in complete if (one["curve"], one["run"]) == (curve, run)]
                axes.plot(
                    [one["step"] for one in points], [one["value"] for one in points],
                    color=SERIES[place % len(SERIES)], linestyle=STYLES[place % len(STYLES)], linewidth=1.5,
                    marker="o" if len(points) == 1 else None, label=cut(run) if curve == names[0] else None,
                )  # fmt: skip
        if len(there) > 1:
            figure.legend(loc="outside lower center", ncols=min(4, len(there)))

    return drawing(
        draw, name=name, title=title, lines=lines, needs=("step", "value"),
        size=(0.5 + 2.75 * across, 2.0 * down + (0.6 if len(there) > 1 else 0.2)),
        label=lambda line: ", ".join(
            [str(line["run"]), str(line["curve"]), *([f"step {line['step']}"] if "step" in line else [])]
        ),
        caption="As logged while training; accuracy and agreement on a part of the test images.",
    )  # fmt: skip
