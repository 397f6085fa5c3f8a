"""What `rnet sweep status` shows: each stage's states, how far the running cells are, when it may end, what failed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.sweep.plan.plan import Cell, Plan
from launch.sweep.records.attempts import read_attempt
from launch.sweep.states import STATES, CellState, StoreState
from rnet.command.run import console
from rnet.stages.graph import STAGE_NAMES
from rnet.storage.json_files import read_information

SAMPLE = 100
"""Cells of a stage (at most) whose times and steps are read for the estimate."""
SHOWN_FAILURES = 10


def summary(plan: Plan, state: StoreState) -> dict[str, Any]:
    """States, progress, estimates and failures as plain data.

    stages: {stage: {state: cells, "cells", "progress" (share of the running cells' steps, None if unknown), "eta"
    (seconds of work left, divided by what runs now; None if unknown)}}. failures: cells that need retry, with the last
    line of their error. done: whether all cells are. trouble: which cluster could not be asked, and why.
    """
    counts = state.count()
    stages = {}
    for stage in (stage for stage in STAGE_NAMES if stage in counts):
        cells = [(c, s) for c, s in zip(plan.cells, state.cells, strict=True) if c.stage == stage]
        progress = _progress(state.root, cells)
        stages[stage] = {
            **{name: counts[stage][name] for name in STATES if counts[stage][name]},
            "cells": len(cells),
            "progress": progress,
            "eta": _eta(state.root, cells, progress),
        }
    failures = [
        {"cell": cell.label, "state": found.state, "attempt": found.attempt, "task": found.task,
         "error": found.error.strip().splitlines()[-1] if found.error.strip() else "", "overrides": cell.overrides}
        for cell, found in zip(plan.cells, state.cells, strict=True)
        if found.state not in ("done", "not submitted") and not found.alive
    ]  # fmt: skip
    return {
        "sweep": plan.name,
        "rows": len(plan.rows),
        "stages": stages,
        "failures": failures,
        "done": all(cell.state == "done" for cell in state.cells),
        "active": any(cell.alive for cell in state.cells),
        "trouble": state.trouble,
    }


def show(plan: Plan, root: Path, *, as_json: bool) -> None:
    """Prints the summary once."""
    found = summary(plan, StoreState(plan, root))
    if as_json:
        print(json.dumps(found, indent=2))  # noqa: T201
    else:
        console().print(render(found))


def watch(plan: Plan, root: Path, *, every: float = 2.0, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """A live table until nothing is under way any more; returns the last summary."""
    with Live(console=console(), refresh_per_second=4) as live:
        while True:
            found = summary(plan, StoreState(plan, root))
            live.update(render(found))
            if not found["active"]:
                return found
            sleep(every)


def render(found: dict[str, Any]) -> Group:
    """The summary as a table and lines below it."""
    used = [name for name in STATES if any(stage.get(name) for stage in found["stages"].values())]
    table = Table(title=f"{found['sweep']}: {found['rows']} rows", title_justify="left")
    table.add_column("stage")
    for name in ("cells", *used, "progress", "time left"):
        table.add_column(name, justify="right")
    for stage, about in found["stages"].items():
        progress = "" if about["progress"] is None else f"{100 * about['progress']:.0f} %"
        counts = [str(about.get(name, "") or "") for name in used]
        table.add_row(stage, str(about["cells"]), *counts, progress, _duration(about["eta"]))
    lines: list[Any] = [table]
    for failure in found["failures"][:SHOWN_FAILURES]:
        lines.append(Text(f"{failure['cell']} {failure['state']} (attempt {failure['attempt']}): {failure['error']}"))
    if len(found["failures"]) > SHOWN_FAILURES:
        lines.append(Text(f"... and {len(found['failures']) - SHOWN_FAILURES} more; --json shows all"))
    if found["failures"]:
        lines.append(Text("rnet sweep retry starts these again"))
    if found["trouble"]:
        lines.append(Text(f"without the scheduler's view: {found['trouble']}"))
    return Group(*lines)


def _progress(root: Path, cells: list[tuple[Cell, CellState]]) -> float | None:
    """Mean share of the steps that the running cells have done, from their own counters."""
    shares = []
    for cell, _ in [(c, s) for c, s in cells if s.state == "running"][:SAMPLE]:
        status = read_information(root / cell.stage / cell.id / "status.json")
        if status.get("state") == "running" and status.get("total"):
            shares.append(status["step"] / status["total"])
    return sum(shares) / len(shares) if shares else None


def _eta(root: Path, cells: list[tuple[Cell, CellState]], progress: float | None) -> float | None:
    """Seconds until the stage's cells are done if as many run at once as now, from how long the finished ones took."""
    open_cells = sum(s.state != "done" for _, s in cells)
    if not open_cells:
        return 0.0
    finished = [(c, s) for c, s in cells if s.state == "done" and s.attempt][-SAMPLE:]
    statuses = [read_attempt(root, c.stage, c.id, s.attempt) or {} for c, s in finished]
    seconds = [status["seconds"] for status in statuses if status.get("state") == "done"]
    running = sum(s.state == "running" for _, s in cells)
    if not seconds or not running:
        return None
    return sum(seconds) / len(seconds) * (open_cells - running * (progress or 0.0)) / running


def _duration(seconds: float | None) -> str:
    if not seconds:  # unknown, or nothing left
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d}" if hours else f"{minutes} min" if minutes else f"{rest} s"
