"""Status files, one per cell and attempt, and the rule that only the current attempt may finish a cell.

    <root>/attempts/<stage>/<id>.<attempt>.json

An attempt's number is its fencing token: whoever creates the next file is the current attempt, and all others stop at
their next heartbeat, checkpoint or commit. Two that start at once cannot get the same number. The file says who
computes where, how it went and, by a beat that is counted up, that it still does.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnet.errors import UserError
from rnet.storage.json_files import names_in, read_json, write_json
from rnet.storage.shapes import NUMBER, TEXT_OR_NONE, fits

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""How often a running attempt says that it still runs, and looks whether it still may."""
STALE_BEATS = 4
"""So many beats missed, and an attempt counts as dead."""
SILENT_SECONDS = 600
"""So long without a beat, and a task that the scheduler calls running counts as lost: libraries are loaded by then."""
SUPERSEDED_EXIT = 75
"""Exit status of a process that another attempt has replaced."""

_SHAPE = {
    "state": str, "started": NUMBER, "updated": NUMBER, "beats": int, "job": TEXT_OR_NONE, "host": str, "pid": int
}  # fmt: skip
_NAME = re.compile(r"([0-9a-f]+)\.(\d+)\.json")


class Superseded(Exception):
    """Another attempt computes the cell now; this one must not write to its folder any more."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Who runs an attempt. token: the submission it belongs to.

    job: the scheduler's id of the task, e.g. 123_4, or None; node: what the scheduler calls this machine.
    """

    token: str
    job: str | None = None
    restart: int = 0
    snapshot: str | None = None
    node: str | None = None

    def describe(self) -> dict[str, Any]:
        """What its status files say of it."""
        return {
            "token": self.token, "job": self.job, "restart": self.restart, "snapshot": self.snapshot,
            "host": platform.node(), "node": self.node, "pid": os.getpid(),
            "user": getpass.getuser(),
        }  # fmt: skip


def attempts_folder(root: Path, stage: str) -> Path:
    """Where the status files of a stage's cells are."""
    return root / "attempts" / stage


def _path(root: Path, stage: str, cell_id: str, number: int) -> Path:
    return Path(f"{root}/attempts/{stage}/{cell_id}.{number:04d}.json")  # one parse, for sweeps of thousands


def newest_attempts(root: Path, stage: str) -> dict[str, int]:
    """The number of the newest attempt of each cell of the stage that was ever started, from one listing."""
    newest: dict[str, int] = {}
    for name in names_in(attempts_folder(root, stage)):
        if match := _NAME.fullmatch(name):
            newest[match[1]] = max(newest.get(match[1], 0), int(match[2]))
    return newest


def read_attempt(root: Path, stage: str, cell_id: str, number: int) -> dict[str, Any] | None:
    """The status of an attempt; None if there is none. Raises UserError for a file that is none."""
    path = _path(root, stage, cell_id, number)
    found = read_json(path)
    if found is not None and not fits(found, _SHAPE):
        raise UserError(f"{path} is no status of an attempt; delete it and run the command again")
    return found


def latest_attempt(root: Path, stage: str, cell_id: str) -> dict[str, Any] | None:
    """The status of the cell's newest attempt; None if it was never started."""
    number = _newest(root, stage, cell_id, 0)
    return read_attempt(root, stage, cell_id, number) if number else None


class Attempt:
    """The current attempt of one cell, from claim() until finish()."""

    def __init__(self, root: Path, stage: str, cell_id: str, number: int, status: dict[str, Any]) -> None:
        self.number = number
        self._root, self._stage, self._id = root, stage, cell_id
        self._path = _path(root, stage, cell_id, number)
        self._status = status
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Raises Superseded if there is a newer attempt."""
        if _newest(self._root, self._stage, self._id, self.number) > self.number:
            raise Superseded(f"{self._stage}/{self._id}: attempt {self.number} was replaced by a newer one")

    def beat(self, every: float = BEAT_SECONDS) -> None:
        """Starts the heartbeat: a thread that ends this process if the attempt is superseded."""
        self._thread = threading.Thread(target=self._beat, args=(every,), daemon=True)
        self._thread.start()

    def finish(self, state: str, **extra: Any) -> None:
        """Stops the heartbeat and records the end: done, failed, preempted or blocked, with an error if there was."""
        self.abandon()
        self._write(state=state, seconds=round(time.time() - self._status["started"], 3), **extra)

    def abandon(self) -> None:
        """Stops the heartbeat and records nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self, every: float) -> None:
        beats = 0
        while not self._stop.wait(every):
            beats += 1
            try:
                self.check()
                self._write(beats=beats)
            except Superseded as error:
                logger.warning("%s; this process ends", error)
                os._exit(SUPERSEDED_EXIT)
            except UserError as error:
                logger.warning("no heartbeat: %s", error)

    def _write(self, **changes: Any) -> None:
        with self._lock:
            self._status |= {**changes, "updated": time.time()}
            write_json(self._path, self._status)


def claim(
    root: Path, stage: str, cell_id: str, worker: Worker, *, dead: int = 0, poll: float = BEAT_SECONDS
) -> Attempt | None:
    """The cell's next attempt, once no other one runs; None if the cell was finished meanwhile.

    Replaced at once are attempts that ended, those of this very job (an earlier incarnation, which may linger on) and
    those up to number `dead`, known to be. Any other is waited for until it ends or its heartbeat stops.
    """
    while True:
        number = _newest(root, stage, cell_id, 0)
        if number > dead and _lives(root, stage, cell_id, number, worker, poll):
            continue
        if (root / stage / cell_id / "result.json").exists():
            return None
        status = {
            "stage": stage, "id": cell_id, "attempt": number + 1, "state": "running", "started": time.time(),
            "updated": time.time(), "beats": 0, **worker.describe(),
        }  # fmt: skip
        if write_json(_path(root, stage, cell_id, number + 1), status, new=True):
            return Attempt(root, stage, cell_id, number + 1, status)


def _lives(root: Path, stage: str, cell_id: str, number: int, worker: Worker, poll: float) -> bool:
    """Whether another worker's attempt still runs; watches its heartbeat for some beats if it may."""
    before: dict[str, Any] | None = None
    for _ in range(STALE_BEATS):
        status = read_attempt(root, stage, cell_id, number) or {}
        if status.get("state") != "running":
            return False
        if worker.job is not None and status.get("job") == worker.job:
            return False
        if is_dead_here(status):
            return False
        if before is not None and status["beats"] != before["beats"]:
            return True
        before = before or status
        time.sleep(poll)
    return False


def is_dead_here(status: dict[str, Any]) -> bool:
    """Whether an attempt ran without a scheduler on this machine and its process is gone."""
    if status.get("job") is not None or status.get("host") != platform.node():
        return False
    return not process_alive(status["pid"])


def process_alive(pid: int) -> bool:
    """Whether a process of that number runs on this machine; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _newest(root: Path, stage: str, cell_id: str, known: int) -> int:
    """The number of the newest attempt, looking upwards from one that exists (0 for none)."""
    while _path(root, stage, cell_id, known + 1).exists():
        known += 1
    return known
