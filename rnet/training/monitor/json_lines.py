"""A log of JSON lines, one object per step, that a resumed run continues as if it had never been interrupted."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from pathlib import Path

from rnet.storage.files import write_atomic
from rnet.storage.json_files import parse_json, set_aside

logger = logging.getLogger(__name__)

_END = b"}\n"


class JsonLines:
    """Appends {"step": int, "time": seconds since 1970, name: number, ...} to a file.

    Lines of steps >= start_step, which a resumed run will take again, are dropped when the log is opened. Every write
    goes to the operating system at once; only a power failure can lose it before `flush`. Values that are not finite
    are written NaN, Infinity and -Infinity, as Python's json module reads them.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        if os.path.lexists(path) and not (stat.S_ISREG(path.lstat().st_mode) and os.access(path, os.R_OK | os.W_OK)):
            set_aside(path)
        _drop_steps_from(path, start_step)
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._file.seek(0, os.SEEK_END)
        self._last_step: int | None = None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds a line, or adds the values to the last line if that is of the same step."""
        assert not values.keys() & {"step", "time"}, "these names are taken in every line"
        if not values:
            return
        # The members without the braces around them: `"a": 1.0, "b": 2.0`.
        members = json.dumps(values)[1:-1].encode()
        if step == self._last_step:
            self._file.seek(-len(_END), os.SEEK_END)
            self._file.write(b", " + members + _END)
        else:
            head = json.dumps({"step": step, "time": round(time.time(), 3)})[:-1].encode()
            self._file.write(head + b", " + members + _END)
        self._last_step = step

    def flush(self) -> None:
        """Returns when everything written is on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _drop_steps_from(path: Path, start_step: int) -> None:
    """Rewrites the log without the steps >= start_step, atomically, if there are any."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines, start=1) if _step_of(line, f"{path}:{number}") < start_step]
    if len(kept) < len(lines):
        write_atomic(path, b"".join(kept))


def _step_of(line: bytes, place: str) -> float:
    """The step of a line; infinity, which drops it, for one that a crash has torn."""
    try:
        if line.endswith(_END):
            return int(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        pass
    logger.warning("%s is no complete line, probably because of a crash; it is dropped", place)
    return float("inf")
