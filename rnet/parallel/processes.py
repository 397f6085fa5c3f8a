"""The processes of one run: who this one is according to its launcher, and the group in which all work together.

with process_group(launched(), "cuda"):
    ...   # torch.distributed works here; if one rank fails, all end
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store

from rnet.errors import UserError, unknown_name
from rnet.parallel.failures import FailureWatch
from rnet.parallel.rendezvous import rendezvous

BACKENDS = {"cpu": ("gloo",), "cuda": ("nccl", "gloo")}

_groups = itertools.count()


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


@contextmanager
def process_group(
    launch: Launch,
    device_type: str,
    *,
    backend: str = "auto",
    timeout_seconds: float = 86_400.0,
    agreed: tuple[type[BaseException], ...] = (),
) -> Iterator[None]:
    """The default process group of torch.distributed for the block, with a watch that ends all ranks when one fails.

    device_type: cpu or cuda; on CUDA each rank gets a device of its own, made current. backend: auto is gloo on CPUs
    and nccl on CUDA. timeout_seconds: of every collective; a day, because rank 0 may wait for another job that computes
    the same stage, and a failed rank is noticed by the watch. While the block runs, RANK, WORLD_SIZE, LOCAL_RANK,
    MASTER_ADDR and MASTER_PORT are set, as DeepSpeed wants them (LOCAL_RANK is the CUDA device's index).
    All ranks leave the block together. If one raises, the others print its first line and exit with status 1; its own
    error goes on to the caller. agreed: exceptions that all ranks raise at the same point, no failure but another way
    to leave together. With one process the block just runs.

    Raises UserError for a backend the device has not got, too few CUDA devices, and processes that do not meet.
    """
    backend = _backend(device_type, backend)
    if launch.world_size == 1:
        yield
        return
    meeting = rendezvous(launch)
    meeting.store.set_timeout(timedelta(seconds=timeout_seconds))
    prefix = f"rnet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_groups)}"
    shared = PrefixStore(prefix, meeting.store)
    # A connection of its own: the group's may wait for minutes in a collective.
    watch = FailureWatch(PrefixStore(f"{prefix}/watch", meeting.store.clone()), launch.rank, launch.world_size)
    watch.start()
    try:
        device = _own_device(shared, launch.rank, meeting.local_rank) if device_type == "cuda" else None
        variables = {
            "RANK": launch.rank,
            "WORLD_SIZE": launch.world_size,
            "LOCAL_RANK": meeting.local_rank if device is None else device.index,
            "MASTER_ADDR": meeting.host,
            "MASTER_PORT": meeting.store.port,
        }
        with _environment({name: str(value) for name, value in variables.items()}):
            dist.init_process_group(
                backend,
                store=shared,
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=timedelta(seconds=timeout_seconds),
                device_id=device if backend == "nccl" else None,
            )
            leaving: BaseException | None = None
            try:
                yield
            except agreed as error:
                leaving = error
            dist.barrier()
            dist.destroy_process_group()
    except BaseException as error:
        watch.fail(error)
        raise
    watch.finish()
    if leaving is not None:
        raise leaving


def _backend(device_type: str, backend: str) -> str:
    if device_type not in BACKENDS:
        raise unknown_name("device type", device_type, BACKENDS)
    if backend == "auto":
        return BACKENDS[device_type][0]
    if backend not in BACKENDS["cuda"]:
        raise unknown_name("backend", backend, ["auto", *BACKENDS["cuda"]])
    if backend not in BACKENDS[device_type]:
        raise UserError(f"backend={backend!r} needs CUDA but the device is {device_type}; use auto or gloo")
    return backend


def _own_device(store: Store, rank: int, local_rank: int) -> torch.device:
    """This rank's CUDA device, made current; UserError if there is none or another rank has it too."""
    device = torch.device("cuda", _device_index(local_rank, torch.cuda.device_count()))
    torch.cuda.set_device(device)
    _claim_device(store, rank, str(torch.cuda.get_device_properties(device).uuid))
    return device


def _device_index(local_rank: int, devices: int) -> int:
    if devices == 1:  # perhaps each process is shown its own device only (srun --gpus-per-task=1)
        return 0
    if local_rank >= devices:
        raise UserError(
            f"this machine has {devices} CUDA devices but its process {local_rank + 1} is starting; "
            f"start at most {devices} processes per machine, or use the device cpu"
        )
    return local_rank


def _claim_device(store: Store, rank: int, uuid: str) -> None:
    """Notes in the ranks' shared store that this rank uses the CUDA device; UserError if another rank does."""
    owner = int(store.compare_set(f"device/{uuid}", "", str(rank)))
    if owner != rank:
        raise UserError(
            f"ranks {owner} and {rank} got the same CUDA device {uuid}; start one process per CUDA device "
            "(with Slurm: as many tasks per node as GPUs)"
        )


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets the variables for the block and puts back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
