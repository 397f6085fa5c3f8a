"""Starts a Python program in several processes on this machine, as torchrun does, and ends them all if one fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rnet.errors import UserError

HOST = "127.0.0.1"
POLL_SECONDS = 0.05
# Between a failure and the end of the others, which find it out themselves and say so if they are in a process group.
GRACE_SECONDS = 5.0


def run_processes(program: Sequence[str], count: int, *, threads: int, what: str) -> None:
    """Runs `python PROGRAM` in `count` processes that find each other, and returns when all have ended.

    threads: of each process. If one fails, the others are ended, what it wrote goes to standard error, and UserError
    tells which one it was, by what was run (`what`), with its last line.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket() as held:
        held.bind((HOST, 0))  # a port that is nobody else's meanwhile: by it the processes know their run
        common = {
            "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": HOST, "MASTER_PORT": held.getsockname()[1],
            "OMP_NUM_THREADS": threads,
        }  # fmt: skip
        logs = [Path(folder) / f"rank{rank}" for rank in range(count)]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank, log in enumerate(logs):
                told = {**common, "RANK": rank, "LOCAL_RANK": rank}
                processes.append(_start(program, {name: str(value) for name, value in told.items()}, log))
            failed = _first_failure(processes)
            if failed is not None:
                _wait(processes, GRACE_SECONDS)
        finally:
            for process in processes:
                process.kill()  # does nothing to one that has ended
                process.wait()
        if failed is not None:
            said = logs[failed].read_text(errors="replace").strip()
            sys.stderr.write(said + "\n")
            last = (said.splitlines() or ["it said nothing"])[-1].removeprefix("rnet: ")
            raise UserError(f"{what}: rank {failed} of {count} {_end(processes[failed].returncode)}: {last}")


def _start(program: Sequence[str], told: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as written:
        return subprocess.Popen(
            [sys.executable, *program], env={**os.environ, **told}, stdin=subprocess.DEVNULL, stdout=written,
            stderr=subprocess.STDOUT,
        )  # fmt: skip


def _first_failure(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The rank of the first process seen to fail, or None when all have ended well."""
    while True:
        statuses = [process.poll() for process in processes]
        for rank, status in enumerate(statuses):
            if status:
                return rank
        if None not in statuses:
            return None
        time.sleep(POLL_SECONDS)


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _end(status: int) -> str:
    if status >= 0:
        return f"failed with status {status}"
    return f"was killed by {signal.Signals(-status).name}"
