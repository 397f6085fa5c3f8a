"""`rnet sweep status` on a terminal: once, or live until nothing is under way any more."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.sweep.show.current import Current
from launch.sweep.show.status import summary
from launch.sweep.states import STATES, StoreState
from rnet.command.run import console, show_json
from rnet.durations import duration

LINE_SECONDS = 300.0
"""How often a line is written where nothing but progress has changed."""
SHOWN_ERRORS = 10
"""Kinds of errors that are told without --json."""


def show(current: Current, *, by: tuple[str, ...] = (), cells: bool = False, as_json: bool = False) -> dict[str, Any]:
    """Prints the summary once, and returns it."""
    found = summary(current, StoreState(current.plan, current.root), by=by, whole=cells or as_json)
    if as_json:
        show_json(found)
    else:
        console().print(render(found, cells=cells), soft_wrap=True)  # a path in one piece
    return found


def watch(
    look: Callable[[Current | None], Current],
    *,
    by: tuple[str, ...] = (),
    every: float = 2.0,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """A live table until nothing is under way any more; returns the last summary.

    Where standard output is no terminal, a line whenever a state has changed, and the table at the end. look: the
    sweep as its file is now, which may be what it was a moment ago.
    """
    live = Live(console=console(), refresh_per_second=4) if sys.stdout.isatty() else None
    said, due, current = "", 0.0, None
    try:
        while True:
            began = time.monotonic()
            current = look(current)
            found = summary(current, StoreState(current.plan, current.root), by=by)
            if live is None:
                if (counts := _counts(found)) != said or began >= due:
                    print(f"{time.strftime('%H:%M:%S')} {_title(found)}; {counts}", flush=True)  # noqa: T201
                    said, due = counts, began + LINE_SECONDS
            else:
                live.update(render(found))
                live.start()
            if not found["active"]:
                break
            sleep(max(every, 3 * (time.monotonic() - began)))  # of thousands of cells the disk is asked less often
    finally:
        if live is not None:
            live.stop()
    if live is None:
        console().print(render(found), soft_wrap=True)
    return found


def render(found: dict[str, Any], *, cells: bool = False) -> Group:
    """The summary as a table and lines below it."""
    by = found.get("by", [])
    rows = (
        found["groups"] if by else [{"values": {"stage": stage}, **about} for stage, about in found["stages"].items()]
    )
    used = [name for name in STATES if found["total"].get(name)]
    table = Table(title=_title(found), title_justify="left")
    for name in by or ("stage",):
        table.add_column(name)
    for name in ("cells", *used, *(() if by else ("progress", "time left"))):
        table.add_column(name, justify="right")
    for about in rows:
        counts = [str(about.get(name, "") or "") for name in used]
        estimates = [] if by else [_percent(about["progress"]), _duration(about["eta"])]
        table.add_row(*about["values"].values(), str(about["cells"]), *counts, *estimates)
    lines: list[Any] = [table]
    if cells:
        lines.append(_listed(found))
    lines += [Text(line) for line in found["changes"]]
    for group in found["errors"][:SHOWN_ERRORS]:
        lines += _told(group)
    if len(found["errors"]) > SHOWN_ERRORS:
        lines.append(Text(f"... and {len(found['errors']) - SHOWN_ERRORS} more kinds of errors; --json shows all"))
    if found["failures"]:
        lines.append(Text("rnet sweep retry starts these again"))
    if found["trouble"]:
        lines.append(Text(f"without the scheduler's view: {found['trouble']}"))
    return Group(*lines)


def _told(group: dict[str, Any]) -> list[Text]:
    """An error that several cells share: how many, what it says, and one of them to look into."""
    example = group["example"]
    cells = f"{group['cells']} cells {group['state']}" if group["cells"] > 1 else f"1 cell {group['state']}"
    lines = [f"{cells}: {group['error']}", f"    {'e.g. ' if group['cells'] > 1 else ''}{example['name']}"]
    if example["log"]:
        lines.append(f"    log {example['log']}")
    lines.append(f"    here: {example['command']}")
    return [Text(line) for line in lines]


def _listed(found: dict[str, Any]) -> Table:
    """Every cell that is not done."""
    table = Table(title="Cells that are not done", title_justify="left", box=None)
    for name in ("cell", "state", "progress", "time left", "log"):
        table.add_column(name, overflow="fold")
    for cell in found["list"]:
        if cell["state"] != "done":
            share = f"{cell['step']}/{cell['total']}" if "step" in cell else ""
            table.add_row(cell["name"], cell["state"], share, _duration(cell.get("left")), cell["log"] or "")
    return table


def _title(found: dict[str, Any]) -> str:
    left = f", {'at least ' if found['eta_is_lowest'] else ''}{_duration(found['eta'])} left" if found["eta"] else ""
    rows = f"{found['rows']} row{'s' if found['rows'] != 1 else ''}"
    return f"{found['sweep']}: {rows}, {found['total']['cells']} cells, {_percent(found['progress'])} done{left}"


def _counts(found: dict[str, Any]) -> str:
    return ", ".join(f"{number} {name}" for name, number in found["total"].items() if name != "cells")


def _percent(share: float) -> str:
    """Of 100, and 100 only where all is done."""
    return f"{min(round(100 * share), 99 if share < 1 else 100)} %"


def _duration(seconds: float | None) -> str:
    return duration(max(seconds, 1)) if seconds else ""  # unknown, or nothing left
