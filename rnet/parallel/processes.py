"""The group in which the processes of one run work together.

with process_group(launched(), "cuda"):
    ...   # torch.distributed works here; if one rank fails, all end

The launcher is asked once, by whoever opens the group; within it, collectives.py says who this process is.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # first imported within a group, its functions' defaults would keep the group
from torch.distributed import PrefixStore, Store

from rnet.errors import UserError, unknown_name
from rnet.parallel.failures import FailureWatch
from rnet.parallel.launch import Launch
from rnet.parallel.peers import require_peers
from rnet.parallel.rendezvous import rendezvous

LOOPBACK_INTERFACE = "lo" if sys.platform == "linux" else "lo0"
BACKENDS = {"cpu": ("gloo",), "cuda": ("nccl", "gloo")}

_groups = itertools.count()


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

    On several machines, torchrun and srun need RNET_TOKEN (rendezvous.py).

    Raises UserError for a backend the device has not got, too few CUDA devices, and processes that do not meet or do
    not prove who they are.
    """
    backend = _backend(device_type, backend)
    if launch.world_size == 1:
        yield
        return
    meeting = rendezvous(launch)
    meeting.store.set_timeout(timedelta(seconds=timeout_seconds))
    prefix = f"group/{next(_groups)}"
    shared = PrefixStore(prefix, meeting.store)
    own = meeting.store.another()  # kept by this name: torch's PrefixStore keeps only its C++ half
    watch = FailureWatch(PrefixStore(f"{prefix}/watch", own), launch.rank, launch.world_size)
    watch.start()
    try:
        device = _own_device(shared, launch.rank, meeting.local_rank) if device_type == "cuda" else None
        variables = {
            "RANK": launch.rank,
            "WORLD_SIZE": launch.world_size,
            "LOCAL_RANK": meeting.local_rank if device is None else device.index,
            "MASTER_ADDR": meeting.store.host,
            "MASTER_PORT": meeting.store.port,
        }
        if meeting.one_machine and "GLOO_SOCKET_IFNAME" not in os.environ:
            variables["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE  # its sockets ask nobody who he is
        with _environment({name: str(value) for name, value in variables.items()}):
            dist.init_process_group(
                backend,
                store=shared,
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=timedelta(seconds=timeout_seconds),
                device_id=device if backend == "nccl" else None,
            )
            if backend == "gloo":
                require_peers(meeting.store.proof, prefix)
            meeting.settle()
            _met.append(launch.world_size)
            leaving: BaseException | None = None
            try:
                yield
            except agreed as error:
                leaving = error
            dist.barrier()
            dist.destroy_process_group()
            _end_gloos_threads(leaving)
    except BaseException as error:
        watch.fail(error)
        raise
    watch.finish()
    if leaving is not None:
        raise leaving


def _end_gloos_threads(leaving: BaseException | None) -> None:
    """Lets go of the models that know the group: its threads end with the last of them.

    A thread that drops a tensor of its last collective while the interpreter ends would abort the process.
    """
    if leaving is not None:
        traceback.clear_frames(leaving.__traceback__)
    gc.collect()


def has_met() -> bool:
    """Whether this process is, or was, one of a group of several."""
    return bool(_met)


_met: list[int] = []
"""The sizes of the groups that this process has been in."""


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
