"""What `rnet sweep plan` shows: stages and arrays, each cell by its name, and what differs from another version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from launch.sweep.clusters.base import Cluster
from launch.sweep.plan.compare import Comparison, causes, compare
from launch.sweep.plan.names import cell_axes, cell_names
from launch.sweep.plan.plan import Plan, done_cells
from launch.sweep.states import StoreState
from rnet.command.run import console, show_json

MOST_SHOWN = 20
"""Lines of each list that are shown of a comparison; --json has all."""


def show_plan(plan: Plan, root: Path, cluster: Cluster, *, cells: bool, as_json: bool, command: str) -> None:
    """Prints a table of the stages and the first job script, or with cells each cell. command: what runs one here."""
    if cells and not as_json:
        _list_cells(plan, root, command)
        return
    done = done_cells(plan, root)
    open_cells = [index for index in range(len(plan.cells)) if index not in done]
    arrays = cluster.arrays(plan, open_cells, ask=False) if cluster.queued else []
    count = Counter(cell.stage for cell in plan.cells)
    finished = Counter(plan.cells[index].stage for index in done)
    if as_json:
        shown = [{"stage": a.stage, "tasks": len(a.tasks), "resources": str(a.shape)} for a in arrays]
        document = {"sweep": plan.name, "cluster": plan.cluster, "rows": len(plan.rows), "cells": dict(count),
                    "done": dict(finished), "arrays": shown, "seconds": plan.seconds}  # fmt: skip
        if cells:
            document["all_cells"] = described(plan, root)
        show_json(document)
        return
    table = Table(title=f"{plan.name}: {len(plan.rows)} rows, {len(plan.cells)} cells", title_justify="left")
    for name in ("stage", "cells", "done", "arrays", "resources of a task"):
        table.add_column(name, justify="right" if name in ("cells", "done", "arrays") else "left")
    for stage in count:
        shapes = {str(plan.shapes[cell.shape]) for cell in plan.cells if cell.stage == stage}
        number = sum(array.stage == stage for array in arrays)
        table.add_row(stage, str(count[stage]), str(finished[stage]), str(number or ""), "; ".join(sorted(shapes)))
    console().print(table)
    print(f"cluster={plan.cluster} ({cluster.kind}), planned in {plan.seconds:.1f} s")  # noqa: T201
    for array in arrays[:1]:
        script = cluster.script(root.resolve(), array)
        print(f"\nThe first of {len(arrays)} job scripts:\n\n{script}")  # noqa: T201


def described(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """Every cell in the order in which it is tried: name, axis values, stage, id, state, and the parents it lacks."""
    state = StoreState(plan, root, ask=False)
    names, axes = cell_names(plan), cell_axes(plan)
    return [
        {"cell": cell.label, "name": names[index], "axes": axes[index], "stage": cell.stage, "id": cell.id,
         "state": state.cells[index].state, "early": index < plan.early,
         "waits_for": [plan.cells[p].label for p in cell.parents if state.cells[p].state != "done"]}
        for index, cell in enumerate(plan.cells)
    ]  # fmt: skip


def _list_cells(plan: Plan, root: Path, command: str) -> None:
    cells = described(plan, root)
    lines = [("state", "cell", "its axis values", "waits for")]
    lines += [(cell["state"], cell["cell"], cell["name"], " ".join(cell["waits_for"])) for cell in cells]
    print(f"{plan.name}: {len(plan.rows)} rows, {len(cells)} cells, in the order in which they are tried\n")  # noqa: T201
    _columns(lines)
    print(f"\n{command} computes one of them here, CELL being its id or its axis values in quotes")  # noqa: T201


def show_comparison(new: Plan, old: Plan, root: Path, *, names: tuple[str, str], as_json: bool) -> None:
    """Prints what differs from an old plan to a new one. names: what the two are called."""
    found = compare(old, new, done_cells(old, root))
    if as_json:
        show_json(_comparison(found, new, old))
        return
    print(f"{names[0]} against {names[1]}")  # noqa: T201
    gone = len(found.recomputed) + len(found.unused)
    print(f"rows: {_counts(len(found.rows_come), len(found.rows_go), found.rows_stay)}")  # noqa: T201
    finished = f" ({gone} of those that go are finished)" if gone else ""
    counts = _counts(len(found.cells_come), len(found.cells_go), len(found.cells_stay))
    print(f"cells: {counts}{finished}")  # noqa: T201
    rows = [("+", row) for row in found.rows_come] + [("-", row) for row in found.rows_go]
    _some([f"{sign} row {' '.join(f'{a}={v}' for a, v in row.items())}" for sign, row in rows])
    if found.recomputed:
        print(f"\n{len(found.recomputed)} finished cells would be computed again, because of")  # noqa: T201
        for words, stages in causes(found, old):
            print(f"  {words}: {', '.join(f'{number} {stage}' for stage, number in stages.items())}")  # noqa: T201
        name = cell_names(old)
        _some([f"  {old.cells[one.old].label} {name[one.old]}" for one in found.recomputed])
    if found.unused:
        print(f"\n{len(found.unused)} finished cells are of no row any more; they stay in the store")  # noqa: T201
    if not found.recomputed:
        print("\nno finished cell would be computed again")  # noqa: T201


def _comparison(found: Comparison, new: Plan, old: Plan) -> dict[str, Any]:
    def listed(plan: Plan, indices: Sequence[int]) -> list[dict[str, str]]:
        names = cell_names(plan)
        return [{"cell": plan.cells[index].label, "name": names[index]} for index in indices]

    return {
        "rows": {"come": found.rows_come, "go": found.rows_go, "stay": found.rows_stay},
        "cells": {"come": listed(new, found.cells_come), "go": listed(old, found.cells_go),
                  "stay": listed(new, found.cells_stay)},
        "recomputed": [
            {"cell": old.cells[one.old].label, "name": cell_names(old)[one.old], "becomes": new.cells[one.new].label,
             "settings": {key: {"old": was, "new": now} for key, (was, now) in one.settings.items()}}
            for one in found.recomputed
        ],
        "unused": listed(old, found.unused),
    }  # fmt: skip


def _counts(come: int, go: int, stay: int) -> str:
    return f"{come} come, {go} go, {stay} stay"


def _some(lines: Sequence[str]) -> None:
    for line in lines[:MOST_SHOWN]:
        print(line)  # noqa: T201
    if len(lines) > MOST_SHOWN:
        print(f"... and {len(lines) - MOST_SHOWN} more; --json shows all")  # noqa: T201


def _columns(lines: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)).rstrip())  # noqa: T201
