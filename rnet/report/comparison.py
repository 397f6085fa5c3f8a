"""Two studies side by side: the same quantities of the same attacks, victims and defences, with their differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rnet.report.effectiveness import effectiveness
from rnet.report.models import fidelity
from rnet.report.records import Key, Study, grouped, key_of, once
from rnet.report.statistics import Summary
from rnet.report.table import Column, Table, axis_columns

_SHARES = ("victim_accuracy", "accuracy", "agreement")


def comparison(first: Study, second: Study, names: tuple[str, str]) -> Table:
    """One line per attack, victim and quantity: its mean over seeds in both, and by how much the second is larger.

    names: what the two are called. Quantities that one of them lacks say so, with the reason where it is known.
    """
    here, there = dict(_quantities(first)), dict(_quantities(second))
    lines: list[dict[str, Any]] = []
    for key in dict.fromkeys([*here, *there]):
        axes, quantity = key
        one, other = here.get(key, (None, "")), there.get(key, (None, ""))
        gone = [
            f"{name}: {why or 'missing'}"
            for name, (mean, why) in zip(names, (one, other), strict=True)
            if mean is None or why
        ]
        difference = None if one[0] is None or other[0] is None else other[0] - one[0]
        lines.append(
            {**dict(axes), "quantity": quantity, "first": one[0], "second": other[0], "difference": difference,
             "missing": "; ".join(gone) or None}
        )  # fmt: skip
    return Table(
        name="comparison",
        title=f"Comparison: {names[0]} and {names[1]}",
        columns=[
            *axis_columns([dict(axes) for axes, _ in [*here, *there]]), Column(name="quantity"),
            Column(name="first", kind="number", title=names[0]), Column(name="second", kind="number", title=names[1]),
            Column(name="difference", kind="number"), Column(name="missing", optional=True),
        ],
        lines=lines,
        notes=(
            "Means over seeds; difference: the second minus the first. Shares are in [0, 1]. derived: the share of "
            "seeds that the metric calls derived.",
        ),
    )  # fmt: skip


Quantity = tuple[Key, str]


def _quantities(study: Study) -> Iterator[tuple[Quantity, tuple[float | None, str]]]:
    """((axes, quantity), (mean or None, what is missing of it))."""
    suspects = grouped(once(study.trials, "suspect_id"), lambda one: key_of(one.axes, "train", "attack"))
    for key, line in zip(suspects, fidelity(study).lines, strict=True):
        for name in _SHARES:
            yield (key, name), (_mean(line[name]), line["missing"] or "")
    if not any(one.test_id for one in study.trials):
        return
    axes = [name for trial in study.trials for name in dict(key_of(trial.axes, "train", "attack", "fingerprint"))]
    for line in effectiveness(study).lines:
        own = tuple((name, line[name]) for name in dict.fromkeys(axes) if name in line)
        why = line["missing"] or ""
        yield (own, line["metric"]), (_mean(line["score"]), why)
        yield (own, f"{line['metric']} derived"), (line["derived"] / line["of"] if line["of"] else None, why)


def _mean(value: Any) -> float | None:
    return value.mean if isinstance(value, Summary) else None
