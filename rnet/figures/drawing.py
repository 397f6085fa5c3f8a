"""What every figure is: its data as plain lines, a caption, and a drawing made of the complete lines alone.

A line that lacks a number, or whose number is not finite, is never drawn: the caption names it and the figure gets a
visible mark. Both are done here, so that no figure can forget them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = Mapping[str, Any]

INK, MUTED, RULE, PAPER = "#1b1f24", "#59626e", "#d5dae1", "#fdfefe"
"""Colours of the light theme; a page replaces each by a variable of its own, so no two may be equal."""
DERIVED, UNDECIDED, INDEPENDENT = "#b3261f", "#6b6f76", "#1f6f4a"
VERDICTS = {"derived": DERIVED, "undecided": UNDECIDED, "independent": INDEPENDENT}
GAP = "#8a4b02"
"""Of marks that something is missing."""
SERIES = ("#0b5cad", "#b4510c", "#237a3b", "#8b3fa8", "#a8233e", "#0f7c86", "#6d5a00", "#5b4fc7", "#7a4a2b", "#4c6272")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 2, 2)))

STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left",
    "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 8.5,
    "legend.frameon": False, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED,
    "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": RULE, "axes.grid": False,
    "axes.facecolor": "none", "figure.facecolor": PAPER, "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "rnet", "image.interpolation": "nearest",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with its data. name: of its place on a page, a-z, 0-9 and "-". caption: also says what is missing.

    lines: the data, incomplete lines with the reason under "missing". gaps: those reasons, with what they are of.
    """

    name: str
    title: str
    caption: str
    lines: Sequence[Line]
    figure: Figure
    gaps: Sequence[str] = ()


def drawing(
    draw: Callable[[Figure, Sequence[Line]], None],
    *,
    name: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    needs: Sequence[str],
    label: Callable[[Line], str],
    size: tuple[float, float],
) -> Drawing:
    """The figure of the lines whose `needs` are finite numbers; draw: puts those on it. size: inches of 72 points.

    label: what a line is called where it is missing.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    said = [{**line, "missing": why} if (why := why_incomplete(line, needs)) else dict(line) for line in lines]
    complete = [line for line in said if not line.get("missing")]
    gaps = list(dict.fromkeys(f"{label(line)}: {line['missing']}" for line in said if line.get("missing")))
    with rc_context(STYLE):
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        if complete:
            draw(figure, complete)
        if gaps:
            _mark(figure, gaps, empty=not complete)
        layout = figure.get_layout_engine()
        if figure.axes and layout is not None:
            layout.execute(figure)
        figure.set_layout_engine("none")  # once; every savefig would do it again
    if gaps:
        shown = "; ".join(gaps[:6]) + (f"; and {len(gaps) - 6} more, which the data names" if len(gaps) > 6 else "")
        caption = f"{caption} Not shown, because incomplete: {shown}."
    return Drawing(name=name, title=title, caption=caption, lines=said, figure=figure, gaps=gaps)


def why_incomplete(line: Line, needs: Sequence[str]) -> str:
    """Why a line cannot be drawn, "" if it can: what it says itself, or which number is not there or not finite."""
    if line.get("missing"):
        return str(line["missing"])
    for name in needs:
        value = line.get(name)
        if value is None:
            return f"no {name.replace('_', ' ')}"
        if not math.isfinite(value):
            return f"{name.replace('_', ' ')} is {value}"
    return ""


def _mark(figure: Figure, gaps: Sequence[str], *, empty: bool) -> None:
    """A framed line at the top that says how much is not shown."""
    what = "nothing to draw" if empty else "incomplete"
    figure.suptitle(
        f"{what}: {len(gaps)} missing, see the caption", x=0.5, fontsize=9, color=GAP, fontweight="bold",
        bbox={"facecolor": PAPER, "edgecolor": GAP, "linewidth": 1.2, "linestyle": "--", "pad": 4},
    )  # fmt: skip


def panels(count: int) -> tuple[int, int]:
    """Rows and columns of so many panels: at most three beside each other."""
    across = 2 if count == 4 else min(count, 3)
    return -(-count // across), across


def grid(figure: Figure, names: Sequence[str], *, share_rows: bool = False) -> Iterator[tuple[Axes, str, bool, bool]]:
    """A panel for each name, with the name above: (axes, name, whether it is in the last row, and in the first column).

    share_rows: whether all panels have one vertical axis.
    """
    down, across = panels(len(names))
    made: Any = figure.subplots(down, across, squeeze=False, sharey=share_rows)
    for number, axes in enumerate(made.flat):
        if number >= len(names):
            axes.set_axis_off()
            continue
        axes.set_title(cut(names[number], 34))
        yield axes, names[number], number // across == down - 1, number % across == 0


def cut(text: str, length: int = 26) -> str:
    """A name that fits beside an axis: its middle is left out if it is too long. Dollars are no mathematics."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) > length:
        text = f"{text[: length // 2]}\N{HORIZONTAL ELLIPSIS}{text[-(length - length // 2 - 1) :]}"
    return text.replace("$", r"\$")
