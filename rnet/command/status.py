"""`rnet status [STAGE/ID]...`: how stages stand, and the last numbers that they logged."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.table import Table

from rnet.command.run import console, show_json, show_values
from rnet.durations import duration
from rnet.errors import UserError
from rnet.stages.sizes import stage_folders
from rnet.stages.store import RESULT
from rnet.storage.json_files import is_number, read_information, read_log
from rnet.training.monitor.progress import SHORT_NAMES, time_left
from rnet.training.monitor.startup import in_words

_SHOWN = ("stage", "state", "progress", "left", "logged", "loss", "accuracy", "matching", "error")
_LINES = 100


def show_status(root: Path, labels: list[str], *, as_json: bool) -> None:
    """The stages named, or all that are not finished. Raises UserError for one that the store does not have."""
    found = [_about(root / label) for label in labels] if labels else _open(root)
    if as_json:
        show_json({"stages": found})
        return
    for about in found if labels else ():
        show_values(about["stage"], {key: value for key, value in about.items() if key != "stage"})
    if not labels:
        table = Table(title=f"Stages in {root} that are not finished", title_justify="left")
        for name in _SHOWN:
            table.add_column(name, no_wrap=name != "error")
        for about in found:
            table.add_row(*(_cell(about.get(name, "")) for name in _SHOWN))
        console().print(table)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _open(root: Path) -> list[dict[str, Any]]:
    return [_about(folder) for folder in stage_folders(root) if not (folder / RESULT).exists()]


def _about(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no stage of a store; write STAGE/ID, as `rnet status` lists them, and --root")
    status = read_information(folder / "status.json")
    kept = {key: value for key, value in status.items() if key not in ("versions", "peak_memory", "startup")}
    if parts := status.get("startup"):
        kept["startup"] = in_words(parts)
    lines = read_log(folder / "log.jsonl")[-_LINES:]
    logged: dict[str, Any] = {}
    for line in lines:
        logged |= line
    shown = {SHORT_NAMES.get(name, name): value for name, value in logged.items() if name not in ("step", "time")}
    return {"stage": f"{folder.parent.name}/{folder.name}", **kept, **_progress(status, lines), **shown}


def _progress(status: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """How far it is; of one that runs also how long it will take, at the speed of the last lines, and when it last
    logged something: a process that was killed still says that it runs, but logs nothing.
    """
    counts = {key: value for key, value in status.items() if isinstance(value, int) and is_number(value)}
    total, said = counts.get("total", 0), counts.get("step", 0)
    step = max(lines[-1]["step"] if lines else 0, said)
    if total < 1 or status.get("state") == "done":
        return {}
    found = {"step": step, "progress": f"{step}/{total} ({step / total:.0%})"}
    if status.get("state") != "running" or not lines:
        return found
    found["logged"] = f"{duration(max(time.time() - lines[-1]['time'], 0))} ago"
    left = time_left(lines[0], lines[-1], total)
    return found | ({"left": duration(left)} if left is not None else {})
