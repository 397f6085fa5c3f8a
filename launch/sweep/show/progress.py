"""How far cells are, by the steps that they log, and how long a stage takes, by what its cells have taken so far."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.sweep.plan.plan import Cell
from launch.sweep.records.attempts import read_attempt
from launch.sweep.states import CellState
from rnet.storage.json_files import parse_log, read_information
from rnet.training.monitor.progress import time_left

SAMPLE = 100
"""Cells of a stage (at most) whose times and steps are read for an estimate."""
_TAIL = 4096
"""Bytes at the end of a log that are read."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How far a running cell is. left: seconds, at the speed of its last log lines; None while that is unknown."""

    step: int
    total: int
    left: float | None

    @property
    def share(self) -> float:
        """Of the steps, those that are done."""
        return min(self.step / self.total, 1.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a stage. progress: share of its work that is done; work: seconds of it that are left, None if unknown."""

    progress: float
    work: float | None


def read_steps(root: Path, cell: Cell) -> Steps | None:
    """The steps of a cell that runs; None where it has not told any."""
    status = read_information(root / cell.stage / cell.id / "status.json")
    total, step = status.get("total"), status.get("step")
    if status.get("state") != "running" or not isinstance(total, int) or not isinstance(step, int) or total < 1:
        return None
    lines = _tail(f"{root}/{cell.label}/log.jsonl").splitlines()
    first, last = _first_whole(lines), _first_whole(reversed(lines))
    if first is None or last is None or last["step"] < step:
        return Steps(step, total, None)
    return Steps(last["step"], total, time_left(first, last, total))


def estimate(root: Path, cells: Sequence[tuple[Cell, CellState]], steps: Sequence[Steps | None]) -> Estimate:
    """Of a stage's cells. steps: of its running cells, or of a sample of them."""
    running = sum(state.state == "running" for _, state in cells)
    done = sum(state.state == "done" for _, state in cells)
    known = [found for found in steps if found is not None]
    share = math.fsum(found.share for found in known) / len(steps) if steps else 0.0
    progress = (done + running * share) / len(cells)
    seconds = _seconds(root, cells) or _expected(known)
    if seconds is None:
        return Estimate(progress, 0.0 if done == len(cells) else None)
    lefts = [
        seconds if found is None else seconds * (1 - found.share) if found.left is None else found.left
        for found in steps
    ]
    left = math.fsum(lefts) / len(lefts) if lefts else seconds
    return Estimate(progress, running * left + (len(cells) - done - running) * seconds)


def _seconds(root: Path, cells: Sequence[tuple[Cell, CellState]]) -> float | None:
    """What a cell takes, by those that are done."""
    finished = [(cell, state) for cell, state in cells if state.state == "done" and state.attempt][-SAMPLE:]
    statuses = [read_attempt(root, cell.stage, cell.id, state.attempt) or {} for cell, state in finished]
    seconds = [status["seconds"] for status in statuses if status.get("state") == "done"]
    return math.fsum(seconds) / len(seconds) if seconds else None


def _expected(known: Sequence[Steps]) -> float | None:
    """What a cell takes, by the speed of those that run."""
    whole = [found.left / (1 - found.share) for found in known if found.left is not None and found.share < 1]
    return math.fsum(whole) / len(whole) if whole else None


def _first_whole(lines: Iterable[bytes]) -> dict[str, Any] | None:
    """What the first line says that is none of those torn by a crash."""
    return next((found[0] for line in lines if (found := parse_log(line))), None)


def _tail(path: str) -> bytes:
    """The last lines of a file, whole; nothing where there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _TAIL, 0))
            data = file.read(_TAIL) or b""
    except OSError:
        return b""
    return data if size <= _TAIL else data.partition(b"\n")[2]
