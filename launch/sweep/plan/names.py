"""What people call a cell: its stage and the axis values that make it, `attack removalnet model=resnet8 seed=1`.

An axis is in the name if the sweep has several values of it, all rows that use the cell have the same one, and the
stage depends on it. The component that the stage is about comes first, bare.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from launch.sweep.plan.plan import Cell, Plan, Row
from rnet.config.components import PRESETS
from rnet.stages.graph import ingredients

_ABOUT = {"train": "model", "attack": "attack", "fingerprint": "defense", "verify": "defense"}
_OF_NEGATIVES = {"seed": None, "portion": "all", "model": None}
"""Settings by which independent models differ, and the values that go without saying."""


def cell_names(plan: Plan) -> list[str]:
    """The names of all cells by index, no two alike; worked out once for a plan."""
    if len(plan.names) != len(plan.cells):
        plan.names[:] = _unique(plan, _Names(plan))
    return plan.names


def cell_axes(plan: Plan) -> list[dict[str, str]]:
    """By cell, the axis values that all rows with it share, in the order of the file."""
    found: list[dict[str, str] | None] = [None] * len(plan.cells)
    for row in plan.rows:
        for index in _cells_of(plan, row):
            known = found[index]
            if known is None:
                found[index] = row.values
            elif known is not row.values and known != row.values:
                found[index] = {axis: value for axis, value in known.items() if row.values[axis] == value}
    negatives = {index for row in plan.rows for index in _negatives_of(plan, row)}
    return [
        {
            a: v
            for a, v in (values or {}).items()
            if index not in negatives or not a.startswith(("attack", "substitute"))
        }
        for index, values in enumerate(found)
    ]


def reads(stage: str, axis: str) -> bool:
    """Whether a stage depends on an axis itself."""
    group = axis.partition(".")[0]
    return group == "seed" or (group.removesuffix("_preset") if group in PRESETS else group) in _ingredients(stage)


def run_command(file: Path, root: Path, cell: Cell, more: Sequence[str] = ()) -> str:
    """What to paste into a shell to compute a cell of a sweep here. more: changes, and other options."""
    return shlex.join(["rnet", "sweep", "run", str(file), cell.label, *more, "--root", str(root)])


@cache
def _ingredients(stage: str) -> frozenset[str]:
    return frozenset(ingredients(stage))


def _cells_of(plan: Plan, row: Row) -> Iterator[int]:
    yield from row.cells.values()
    yield from _negatives_of(plan, row)


def _negatives_of(plan: Plan, row: Row) -> Iterator[int]:
    """The verify and attack cells of the row's negatives; their other parents are the row's own."""
    for verify in row.negatives:
        if verify not in row.cells.values():
            yield verify
            yield from (parent for parent in plan.cells[verify].parents if plan.cells[parent].stage == "attack")


class _Names:
    """How cells are called, from what all of a plan's cells share."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._axes = cell_axes(plan)
        seen: dict[str, set[str]] = {}
        for row in plan.rows:
            for axis, value in row.values.items():
                seen.setdefault(axis, set()).add(value)
        self._several = {axis for axis, values in seen.items() if len(values) > 1}

    def of(self, index: int, *, all_axes: bool = False) -> str:
        """all_axes: those that the stage does not read itself, too: a case can make any setting follow from them."""
        cell, axes = self._plan.cells[index], self._axes[index]
        about = _ABOUT[cell.stage]
        words = [cell.stage, _shown(axes.get(about) or self._plan.setting(cell, about)["name"])]
        for axis, value in axes.items():
            if axis != about and axis in self._several and (all_axes or reads(cell.stage, axis)):
                words.append(f"{axis}={_shown(value)}")
        if cell.stage in ("attack", "verify"):
            attack = self._plan.setting(cell, "attack")
            if attack["name"] == "independent":
                words += self._negative(cell.stage, attack, axes)
        return " ".join(words)

    def _negative(self, stage: str, attack: dict[str, Any], axes: dict[str, str]) -> list[str]:
        words = ["attack=independent"] if stage == "verify" and "attack" not in axes else []
        for key, usual in _OF_NEGATIVES.items():
            value = attack.get(key)
            value = value["name"] if isinstance(value, dict) else value
            if value != usual and f"attack.{key}" not in axes:
                words.append(f"attack.{key}={_shown(str(value))}")
        return words


def _unique(plan: Plan, names: _Names) -> list[str]:
    """Names with more axes, and at last with ids, where two cells would have the same."""
    found = [names.of(index) for index in range(len(plan.cells))]
    count = Counter(found)
    found = [name if count[name] == 1 else names.of(index, all_axes=True) for index, name in enumerate(found)]
    count = Counter(found)
    return [name if count[name] == 1 else f"{name} {plan.cells[index].id}" for index, name in enumerate(found)]


def _shown(value: str | None) -> str:
    """A value in one word: null for none, quoted where it has spaces or other characters of a shell."""
    return "null" if value is None or value == "" else shlex.quote(value)
