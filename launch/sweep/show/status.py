"""What `rnet sweep status` knows, as plain data: states, how far a stage is, when it may end, what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from launch.sweep.plan.names import cell_names, run_command
from launch.sweep.show.axes import own_axes
from launch.sweep.show.current import Current
from launch.sweep.show.failures import grouped
from launch.sweep.show.progress import SAMPLE, Estimate, Steps, estimate, read_steps
from launch.sweep.states import STATES, StoreState
from rnet.errors import unknown_name
from rnet.stages.graph import STAGE_NAMES

EXIT_FAILED = 1
EXIT_UNDER_WAY = 3
EXIT_NOT_SUBMITTED = 4
NONE = "-"
"""What stands for the value of an axis that a cell does not depend on."""


def summary(current: Current, state: StoreState, *, by: Sequence[str] = (), whole: bool = False) -> dict[str, Any]:
    """States, progress, estimates and failures as plain data.

    stages: {stage: {state: cells, "cells", "progress" (share of the work that is done), "eta" (seconds until it is all
    done if as many cells run at once as now; None if unknown)}}. total, progress, eta: of all; eta_is_lowest: whether
    stages of which nothing is known yet will add to it. groups: the same counts by the values of some axes. failures:
    cells that need retry, with the last line of their error, their log and the command that runs them here; errors:
    these, once for all that say the same. done: whether all cells are. active: whether some are under way. changes:
    how the file differs from what was submitted. trouble: which cluster could not be asked, and why.

    whole: also list, every cell with name, state, steps, log and command.
    """
    plan = current.plan
    about = _Cells(current, state)
    members: dict[str, list[int]] = {stage: [] for stage in STAGE_NAMES}
    for index, cell in enumerate(plan.cells):
        members[cell.stage].append(index)
    stages, estimates = {}, {}
    for stage, indices in members.items():
        if indices:
            found = estimates[stage] = about.estimate(indices)
            running = sum(state.cells[index].state == "running" for index in indices)
            eta = 0.0 if found.work == 0 else found.work / running if found.work is not None and running else None
            stages[stage] = {**_count(state, indices), "progress": found.progress, "eta": eta}
    failures = [
        about.describe(index)
        for index, found in enumerate(state.cells)
        if found.state not in ("done", "not submitted") and not found.alive
    ]
    return {
        "sweep": plan.name, "rows": len(plan.rows),
        "total": _count(state, range(len(plan.cells))),
        **_overall(state, estimates, {stage: len(indices) for stage, indices in members.items()}),
        "stages": stages,
        **({"by": list(by), "groups": _groups(current, state, by)} if by else {}),
        "failures": failures,
        "errors": grouped(failures),
        "done": all(cell.state == "done" for cell in state.cells),
        "active": any(cell.alive for cell in state.cells),
        "changes": current.changes,
        "trouble": state.trouble,
        **({"list": [about.describe(index, steps=True) for index in range(len(plan.cells))]} if whole else {}),
    }  # fmt: skip


def exit_status(found: dict[str, Any]) -> int:
    """For scripts: 0 all done; 3 something is under way; else 1 something failed, or 4 not all was submitted."""
    if found["done"]:
        return 0
    if found["active"]:
        return EXIT_UNDER_WAY
    return EXIT_FAILED if found["failures"] else EXIT_NOT_SUBMITTED


class _Cells:
    """What is told of single cells; their steps are read once."""

    def __init__(self, current: Current, state: StoreState) -> None:
        self._current, self._state = current, state
        self._steps: dict[int, Steps | None] = {}

    def estimate(self, indices: Sequence[int]) -> Estimate:
        """Of the cells of a stage."""
        cells = [(self._current.plan.cells[index], self._state.cells[index]) for index in indices]
        running = [index for index in indices if self._state.cells[index].state == "running"][:SAMPLE]
        return estimate(self._state.root, cells, [self._steps_of(index) for index in running])

    def describe(self, index: int, *, steps: bool = False) -> dict[str, Any]:
        """One cell: what it is called, how it stands, and where to look."""
        plan, found = self._current.plan, self._state.cells[index]
        cell, log = plan.cells[index], self._state.log_of(index)
        about: dict[str, Any] = {
            "cell": cell.label, "name": cell_names(plan)[index], "stage": cell.stage, "state": found.state,
            "attempt": found.attempt, "task": found.task,
            "error": found.error.strip().splitlines()[-1] if found.error.strip() else "",
            "log": None if log is None else str(log),
            "command": run_command(self._current.file, self._current.root, cell, self._current.arguments),
        }  # fmt: skip
        if steps and found.state == "running" and (known := self._steps_of(index)) is not None:
            about |= {"step": known.step, "total": known.total, "left": known.left}
        return about

    def _steps_of(self, index: int) -> Steps | None:
        if index not in self._steps:
            self._steps[index] = read_steps(self._state.root, self._current.plan.cells[index])
        return self._steps[index]


def _count(state: StoreState, indices: Sequence[int]) -> dict[str, int]:
    count = Counter(state.cells[index].state for index in indices)
    return {**{name: count[name] for name in STATES if count[name]}, "cells": len(indices)}


def _overall(state: StoreState, estimates: dict[str, Estimate], sizes: dict[str, int]) -> dict[str, Any]:
    """Progress and time left of all stages: their work together, done by as many cells at once as now."""
    running = sum(cell.state == "running" for cell in state.cells)
    known = [found.work for found in estimates.values() if found.work is not None]
    cells = sum(sizes.values())
    return {
        "progress": sum(found.progress * sizes[stage] for stage, found in estimates.items()) / cells,
        "eta": sum(known) / running
        if running and any(known)
        else 0.0
        if len(known) == len(estimates) and not any(known)
        else None,
        "eta_is_lowest": len(known) < len(estimates),
    }


def _groups(current: Current, state: StoreState, by: Sequence[str]) -> list[dict[str, Any]]:
    """Counts by the values of the axes; cells that do not depend on one are under NONE."""
    known = list(current.plan.rows[0].values)
    for axis in by:
        if axis not in known:
            raise unknown_name("--by", axis, known)
    members: dict[tuple[str, ...], list[int]] = {}
    order = {axis: list(dict.fromkeys(row.values[axis] for row in current.plan.rows)) for axis in by}
    for index, axes in enumerate(own_axes(current.plan)):
        members.setdefault(tuple(axes.get(axis, NONE) for axis in by), []).append(index)

    def place(values: tuple[str, ...]) -> list[int]:
        """That of the file; what depends on no value first, values of negatives last."""
        known = [{NONE: -1} | {value: number for number, value in enumerate(order[axis])} for axis in by]
        return [places.get(value, len(places)) for places, value in zip(known, values, strict=True)]

    return [
        {"values": dict(zip(by, values, strict=True)), **_count(state, members[values])}
        for values in sorted(members, key=place)
    ]
