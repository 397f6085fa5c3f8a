"""Starts a Python program in several processes, as torchrun, mpiexec or a few environment variables would."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
# Each launcher with its mark, to parametrise a test with.
LAUNCHERS = (
    "plain",
    "torchrun",
    pytest.param("mpi", marks=[pytest.mark.mpi, pytest.mark.skipif(not MPIEXEC, reason="mpiexec is not installed")]),
)
# What launchers tell their processes; none of it may reach the processes that are started here.
_FOREIGN = ("SLURM_", "OMPI_", "PMI", "PMIX_", "MPI_", "PRTE_", "TORCHELASTIC_")
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Outcome(NamedTuple):
    """How a process ended: status (minus the signal if one killed it), output, and time.time() of its end."""

    returncode: int
    stdout: str
    stderr: str
    ended: float


def run_ranks(
    launcher: str,
    *arguments: str | Path,
    ranks: int = 2,
    timeout: float = 120.0,
    environment: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Runs `python ARGUMENTS` (a script or `-m MODULE`, then its own arguments) in so many processes.

    launcher: plain (environment variables only: one outcome per rank), torchrun or mpi (one outcome, the launcher's).
    An AssertionError shows the output of a process that has not ended after `timeout` seconds; all are then killed.
    """
    common = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    common = {name: value for name, value in common.items() if name not in _VARIABLES}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})}
    program = [str(argument) for argument in arguments]
    if launcher == "plain":
        commands = [[sys.executable, *program]] * ranks
    elif launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        commands = [[*torchrun, *program]]
    elif launcher == "mpi":
        assert MPIEXEC is not None
        options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        commands = [[MPIEXEC, *options, sys.executable, *program]]
    else:
        raise AssertionError(launcher)
    port = free_port()
    processes = []
    for rank, command in enumerate(commands):
        told = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = common | ({name: str(value) for name, value in told.items()} if launcher == "plain" else {})
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        processes.append(process)
    try:
        with ThreadPoolExecutor(len(processes)) as pool:
            return list(pool.map(lambda process: _wait(process, timeout), processes))
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(process: subprocess.Popen[str], timeout: float) -> Outcome:
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # a launcher then ends its processes
        try:
            stdout, stderr = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
        raise AssertionError(f"{process.args} ran longer than {timeout} s\n{stdout}\n{stderr}") from None
    return Outcome(process.returncode, stdout, stderr, time.time())
