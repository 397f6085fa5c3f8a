"""Who this process is among those of its run, according to whatever started them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from rnet.errors import UserError

TOKEN = "RNET_TOKEN"
"""The environment variable by which processes on several machines prove that they belong to one run."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What the launcher told this process about itself."""

    launcher: str
    """single, torchrun (or the same variables set by hand), mpi or slurm."""
    rank: int
    world_size: int
    local_rank: int | None
    """Among the processes of this machine; None where the launcher does not say."""
    local_world_size: int | None
    """None where the launcher does not say."""


SINGLE = Launch(launcher="single", rank=0, world_size=1, local_rank=0, local_world_size=1)


@dataclass(frozen=True, kw_only=True)
class _Variables:
    """The environment variables in which one launcher says who a process is."""

    launcher: str
    world_size: str
    rank: str
    local_rank: str
    local_world_size: str
    required: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        if self.launcher == "torchrun":
            return "start the processes with torchrun, or unset RANK and WORLD_SIZE to run one process"
        return (
            f"start the processes with {'srun' if self.launcher == 'slurm' else 'mpiexec'}, or unset {self.world_size}"
        )


_TORCHRUN = _Variables(
    launcher="torchrun",
    world_size="WORLD_SIZE",
    rank="RANK",
    local_rank="LOCAL_RANK",
    local_world_size="LOCAL_WORLD_SIZE",
    required=("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
)
_OPEN_MPI = _Variables(
    launcher="mpi",
    world_size="OMPI_COMM_WORLD_SIZE",
    rank="OMPI_COMM_WORLD_RANK",
    local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
    local_world_size="OMPI_COMM_WORLD_LOCAL_SIZE",
)
# Not SLURM_NTASKS: a batch script sees it too, and there one process runs alone. Slurm does not say how many are local.
_SLURM = _Variables(
    launcher="slurm",
    world_size="SLURM_STEP_NUM_TASKS",
    rank="SLURM_PROCID",
    local_rank="SLURM_LOCALID",
    local_world_size="",
    required=("SLURM_LOCALID",),
)
_HYDRA = _Variables(
    launcher="mpi",
    world_size="PMI_SIZE",
    rank="PMI_RANK",
    local_rank="MPI_LOCALRANKID",
    local_world_size="MPI_LOCALNRANKS",
)


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Who this process is, from the environment alone: torchrun, Open MPI, srun, MPICH or Intel MPI, else single.

    A world of one process is "single" whatever started it. Raises UserError for incomplete or contradictory variables.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _read(_TORCHRUN, environment)
    if "OMPI_COMM_WORLD_SIZE" in environment or "OMPI_COMM_WORLD_RANK" in environment:
        return _read(_OPEN_MPI, environment)
    hydra = "PMI_SIZE" in environment or "PMI_RANK" in environment
    if "SLURM_STEP_NUM_TASKS" in environment:
        # In an allocation, mpiexec of MPICH and Intel MPI starts one helper per machine through srun, whose variables
        # the ranks inherit; srun itself sets PMI_SIZE to the number of its tasks, if at all.
        tasks = environment["SLURM_STEP_NUM_TASKS"]
        if not hydra or environment.get("PMI_SIZE") == tasks:
            return _read(_SLURM, environment)
    return _read(_HYDRA, environment) if hydra else SINGLE


def _read(names: _Variables, environment: Mapping[str, str]) -> Launch:
    def integer(name: str) -> int:
        try:
            return int(environment[name])
        except ValueError:
            message = f"the environment variable {name}={environment[name]!r} is not an integer; {names.remedy}"
            raise UserError(message) from None

    def require(*needed: str) -> None:
        for name in needed:
            if not environment.get(name):
                known = names.rank if names.rank in environment else names.world_size
                raise UserError(f"{known} is set in the environment but {name} is not; {names.remedy}")

    def check(name: str, value: int, limit_name: str, limit: int) -> None:
        if not 0 <= value < limit:
            raise UserError(f"{name}={value} is not one of {limit_name}={limit} processes; {names.remedy}")

    require(names.world_size, names.rank)
    rank, world_size = integer(names.rank), integer(names.world_size)
    check(names.rank, rank, names.world_size, world_size)
    if world_size == 1:
        return SINGLE
    require(*names.required)
    local_rank = integer(names.local_rank) if names.local_rank in environment else None
    local_world_size = integer(names.local_world_size) if names.local_world_size in environment else None
    if local_rank is not None and local_world_size is not None:
        check(names.local_rank, local_rank, names.local_world_size, local_world_size)
    elif local_rank is not None:
        check(names.local_rank, local_rank, names.world_size, world_size)
    return Launch(
        launcher=names.launcher,
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
    )
