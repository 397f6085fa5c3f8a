"""ROC curves of derived suspects against independent models, one panel for each metric, one curve for each attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rnet.figures.drawing import MUTED, SERIES, STYLES, Drawing, Line, cut, drawing, grid, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def roc(name: str, title: str, lines: Sequence[Line]) -> Drawing:
    """lines: metric, attack, false_positive_rate, true_positive_rate, auc, positives, negatives; points in order."""
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    attacks = list(dict.fromkeys(line["attack"] for line in lines))
    down, across = panels(len(metrics))

    def draw(figure: Figure, complete: Sequence[Line]) -> None:
        for axes, metric, last_row, first_column in grid(figure, metrics):
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.7, linestyle=(0, (1, 3)))
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
            if last_row:
                axes.set_xlabel("false positive rate")
            if first_column:
                axes.set_ylabel("true positive rate")
            for place, attack in enumerate(attacks):
                points = [o for o in complete if (o["metric"], o["attack"]) == (metric, attack)]
                axes.plot(
                    [point["false_positive_rate"] for point in points],
                    [point["true_positive_rate"] for point in points], color=SERIES[place % len(SERIES)],
                    linestyle=STYLES[place % len(STYLES)], linewidth=1.8,
                    label=cut(attack) if metric == metrics[0] else None,
                )  # fmt: skip
        figure.legend(loc="outside lower center", ncols=min(4, len(attacks)))

    return drawing(
        draw, name=name, title=title, lines=lines, size=(0.5 + 2.6 * across, 2.75 * down + 0.6),
        needs=("false_positive_rate", "true_positive_rate"),
        label=lambda line: f"{line['attack']}, {line['metric']}",
        caption="The share of derived suspects of all seeds that a threshold finds, against the share of independent "
        "models that it accuses. Dotted: a coin.",
    )  # fmt: skip
