"""Two plans side by side: rows and cells that come, go and stay, and what that would compute again, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launch.sweep.plan.plan import Cell, Plan, Row
from rnet.config.documents import flattened
from rnet.stages.graph import ingredients


@dataclass(frozen=True)
class Recomputed:
    """A finished cell of the old plan (by index) in whose place the new plan has another one.

    settings: those that differ, {key: (old, new)}; empty where the images, a file or the code has changed.
    """

    old: int
    new: int
    settings: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """rows_*: axis values of rows; cells_*: indices, those that go of the old plan, the others of the new one.

    recomputed: finished cells that go for another one; unused: finished cells that go for none.
    """

    rows_come: list[Mapping[str, str]]
    rows_go: list[Mapping[str, str]]
    rows_stay: int
    cells_come: list[int]
    cells_go: list[int]
    cells_stay: list[int]
    recomputed: list[Recomputed]
    unused: list[int]


def compare(old: Plan, new: Plan, done: Collection[int]) -> Comparison:
    """What changes from one plan to the other. done: the finished cells of the old one."""
    before, after = ({frozenset(row.values.items()) for row in plan.rows} for plan in (old, new))
    labels = {cell.label for cell in new.cells}
    known = {cell.label for cell in old.cells}
    go = [index for index, cell in enumerate(old.cells) if cell.label not in labels]
    found: dict[int, Recomputed] = {}
    differing = Differing(old, new)
    for one, other in _pairs(old, new):
        if one in done and one not in found and old.cells[one].label not in labels:
            found[one] = Recomputed(one, other, differing(old.cells[one], new.cells[other]))
    return Comparison(
        rows_come=[row.values for row in new.rows if frozenset(row.values.items()) not in before],
        rows_go=[row.values for row in old.rows if frozenset(row.values.items()) not in after],
        rows_stay=len(before & after),
        cells_come=[index for index, cell in enumerate(new.cells) if cell.label not in known],
        cells_go=go,
        cells_stay=[index for index, cell in enumerate(new.cells) if cell.label in known],
        recomputed=[found[index] for index in sorted(found)],
        unused=[index for index in go if index in done and index not in found],
    )


def causes(comparison: Comparison, old: Plan) -> list[tuple[str, dict[str, int]]]:
    """Why finished cells would be computed again, most cells first: settings in words, and how many of each stage."""
    found: dict[str, dict[str, int]] = {}
    values: dict[str, set[str]] = {}
    for one in comparison.recomputed:
        for key, (was, now) in one.settings.items():
            values.setdefault(key, set()).add(f"{told(was)} -> {told(now)}")
    for one in comparison.recomputed:
        words = ", ".join(
            f"{key} {next(iter(values[key]))}" if len(values[key]) == 1 else f"{key} ({len(values[key])} changes)"
            for key in one.settings
        )
        stages = found.setdefault(words or "the images, a file, or the code of the stage", {})
        stage = old.cells[one.old].stage
        stages[stage] = stages.get(stage, 0) + 1
    return sorted(found.items(), key=lambda item: -sum(item[1].values()))


def _pairs(old: Plan, new: Plan) -> Iterator[tuple[int, int]]:
    """Cells that stand at the same place: of rows with the same values of the axes that both plans have."""
    if not old.rows or not new.rows:
        return
    axes = [axis for axis in old.rows[0].values if axis in new.rows[0].values]
    first: dict[tuple[str, ...], Row] = {}
    for row in new.rows:
        first.setdefault(tuple(row.values[axis] for axis in axes), row)
    for row in old.rows:
        other = first.get(tuple(row.values[axis] for axis in axes))
        if other is None:
            continue
        for stage, index in row.cells.items():
            if stage in other.cells:
                yield index, other.cells[stage]
        for one, two in zip(row.negatives, other.negatives, strict=False):
            yield one, two
            yield from zip(old.cells[one].parents, new.cells[two].parents, strict=False)


class Differing:
    """Which settings that matter differ between cells; pieces that many cells share are compared once."""

    def __init__(self, old: Plan, new: Plan) -> None:
        self._old, self._new = old, new
        self._known: dict[tuple[Any, ...], dict[str, tuple[Any, Any]]] = {}

    def __call__(self, one: Cell, other: Cell) -> dict[str, tuple[Any, Any]]:
        key = (one.stage, one.settings, other.settings)
        if key not in self._known:
            read = ingredients(one.stage)
            was, now = (
                flattened({group: value for group, value in plan.configuration(cell).items() if group in read})
                for plan, cell in ((self._old, one), (self._new, other))
            )
            self._known[key] = {
                setting: (was.get(setting), now.get(setting))
                for setting in {**was, **now}
                if was.get(setting) != now.get(setting)
            }
        return self._known[key]


def told(value: Any) -> str:
    """A setting's value in words."""
    return "null" if value is None else str(value)
