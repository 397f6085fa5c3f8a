"""Accuracy of the suspects against the floating-point operations that making them took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rnet.figures.drawing import MARKS, MUTED, SERIES, Drawing, Line, cut, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def accuracy_against_flops(name: str, title: str, lines: Sequence[Line]) -> Drawing:
    """lines: attack, seed, flops, accuracy and victim_accuracy in [0, 1]. One mark per suspect."""
    attacks = list(dict.fromkeys(str(line["attack"]) for line in lines))

    def draw(figure: Figure, complete: Sequence[Line]) -> None:
        axes = figure.subplots()
        for place, attack in enumerate(attacks):
            own = [line for line in complete if line["attack"] == attack]
            axes.scatter(
                [line["flops"] for line in own], [100 * line["accuracy"] for line in own],
                marker=MARKS[place % len(MARKS)], color=SERIES[place % len(SERIES)], s=38, alpha=0.9, linewidths=0,
                label=cut(attack),
            )  # fmt: skip
        victims = [100 * line["victim_accuracy"] for line in complete if line.get("victim_accuracy") is not None]
        if victims:
            mean = sum(victims) / len(victims)
            axes.axhline(mean, color=MUTED, linewidth=1, linestyle="--", label="victims' mean accuracy")
        costs = sorted(line["flops"] for line in complete if line["flops"] > 0)
        if costs:
            axes.set_xscale("symlog", linthresh=costs[0] / 3)
            free = any(line["flops"] <= 0 for line in complete)
            axes.set_xlim(-costs[0] / 30 if free else costs[0] / 2, costs[-1] * 2)
        axes.set(xlabel="floating-point operations of the attack", ylabel="test accuracy (%)")
        axes.grid(linewidth=0.6)
        figure.legend(loc="outside right upper")

    return drawing(
        draw, name=name, title=title, lines=lines, needs=("flops", "accuracy"), size=(7.6, 3.6),
        label=lambda line: f"{line['attack']}, seed {line['seed']}",
        caption="One mark per suspect. Up and left is better for the attacker. The axis of operations is logarithmic, "
        "and linear near 0.",
    )  # fmt: skip
