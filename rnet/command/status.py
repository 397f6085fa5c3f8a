"""`rnet status [STAGE/ID]...`: how stages stand, and the last numbers that they logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from rnet.command.run import console, show_json, show_values
from rnet.errors import UserError
from rnet.stages.keeping import stage_folders
from rnet.stages.store import RESULT
from rnet.storage.json_files import parse_json, read_information

_SHOWN = ("stage", "state", "attempt", "step", "total", "seconds", "updated", "error")


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
            table.add_column(name)
        for about in found:
            table.add_row(*(str(about.get(name, "")) for name in _SHOWN))
        console().print(table)


def _open(root: Path) -> list[dict[str, Any]]:
    return [_about(folder) for folder in stage_folders(root) if not (folder / RESULT).exists()]


def _about(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no stage of a store; write STAGE/ID, as `rnet status` lists them, and --root")
    status = read_information(folder / "status.json")
    kept = {key: value for key, value in status.items() if key not in ("versions", "peak_memory")}
    return {"stage": f"{folder.parent.name}/{folder.name}", **kept, **_last_logged(folder / "log.jsonl")}


def _last_logged(path: Path) -> dict[str, Any]:
    """The newest value of each curve, with the step of the last line."""
    values: dict[str, Any] = {}
    try:
        lines = path.read_bytes().splitlines()[-100:]
    except OSError:
        return {}
    for line in lines:
        try:
            values |= parse_json(line)
        except (ValueError, TypeError):  # torn by a crash
            continue
    return {"logged step" if key == "step" else key: value for key, value in values.items() if key != "time"}
