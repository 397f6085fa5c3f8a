"""Sweeps in one allocation of MPI ranks: rank 0 hands out cells, the others compute them, one at a time each.

    mpiexec -n RANKS python -m mpi4py.futures -m launch.sweep.clusters.mpi ROOT TOKEN WORKERS 0

For centres that forbid thousands of small jobs. A rank that dies takes the others with it, as MPI has it; their cells
go on from their checkpoints with rnet sweep retry.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from launch.sweep.clusters.local import Stop, announce, run_graph, task_exit_status

LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_", "PMI_", "PMIX_", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
"""What tells a process that it is one of several: each cell here is computed by one rank alone."""


def run_alone(root: Path, token: str, number: int) -> int:
    """Runs a task on this rank, as the only process of it; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in [name for name in os.environ if name.startswith(LAUNCHER_VARIABLES)]:
        del os.environ[name]
    return task_exit_status(root, token, number)


def run_mpi(root: Path, token: str, workers: int) -> None:
    """Computes a submission's cells on the other ranks and returns when none is left."""
    from mpi4py.futures import MPIPoolExecutor

    record = announce(root, token)
    with MPIPoolExecutor(workers) as ranks:
        run_graph(record, workers, lambda number: ranks.submit(run_alone, root, token, number), Stop(lambda: None))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run_mpi(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
