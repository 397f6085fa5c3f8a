"""Sweeps in one allocation of MPI ranks: rank 0 hands out cells, the others compute them, one at a time each.

    mpiexec -n RANKS python -m mpi4py.futures -m launch.sweep.clusters.mpi ROOT TOKEN WORKERS

For centres that forbid thousands of small jobs. A rank that dies takes the others with it, as MPI has it; their cells
go on from their checkpoints with rnet sweep retry.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from launch.sweep.clusters.local import default_workers
from launch.sweep.clusters.pool import Pool, Stop, announce, coming, run_graph, task_exit_status


@dataclass(frozen=True, kw_only=True)
class Mpi(Pool):
    """Ranks of one MPI program."""

    mpiexec: list[str] = field(default_factory=lambda: ["mpiexec", "-n", "{ranks}"])
    """What starts the ranks; {ranks} is workers + 1, for one rank hands out the cells."""

    def command(self, root: Path, token: str, variables: Mapping[str, str]) -> list[str]:
        """This file as a program of so many ranks."""
        workers = self.workers or default_workers()
        mpiexec = [part.format(ranks=workers + 1) for part in self.mpiexec]
        beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # where its wheel puts it
        mpiexec[0] = shutil.which(mpiexec[0], path=beside) or mpiexec[0]
        # Not every mpiexec hands its environment to other machines.
        mpiexec += ["env", *(f"{name}={value}" for name, value in variables.items())]
        return [*mpiexec, sys.executable, "-m", "mpi4py.futures", "-m", __name__, str(root), token, str(workers)]


def run_alone(root: Path, token: str, number: int) -> int:
    """Runs a task on this rank; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return task_exit_status(root, token, number)


def run_mpi(root: Path, token: str, workers: int) -> None:
    """Computes a submission's cells on the other ranks and returns when none is left."""
    from mpi4py.futures import MPIPoolExecutor

    record = announce(root, token)
    with MPIPoolExecutor(workers) as ranks:
        look = partial(coming, root, token)
        run_graph(
            record, workers, lambda number: ranks.submit(run_alone, root, token, number), Stop(lambda: None), look
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run_mpi(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
