"""Where the processes of one run meet: a store on rank 0 that torchrun, Slurm or MPI lets all others find."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from torch.distributed import DistError, TCPStore

from rnet.errors import UserError, first_line
from rnet.parallel.launch import Launch

# Processes of one job do not start together: imports from a busy file system can take minutes.
START_SECONDS = 600.0
# Ports derived from a Slurm step: above Slurm's own, below the ephemeral ones, and a prime number of them.
_FIRST_PORT, _PORTS = 20000, 11987


@dataclass(frozen=True)
class Meeting:
    """The store all ranks share, the address of its host, and this process's number on its machine."""

    store: TCPStore
    host: str
    local_rank: int


@cache
def rendezvous(launch: Launch) -> Meeting:
    """Meets the other processes, once: MPI starts only once, and the store lives until the process ends.

    Raises UserError if the address is unknown or nobody answers there within START_SECONDS.
    """
    if launch.launcher == "mpi":
        return _meet_through_mpi(launch)
    if launch.launcher == "slurm":
        host, port = slurm_address(os.environ)
    else:
        host, port = os.environ["MASTER_ADDR"], _port(os.environ["MASTER_PORT"])
    assert launch.local_rank is not None, "torchrun and srun always tell"
    in_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun itself holds the store
    store = _open_store(host, port, holds=launch.rank == 0 and not (in_agent and launch.launcher == "torchrun"))
    return Meeting(store, host, launch.local_rank)


def _open_store(host: str, port: int, *, holds: bool) -> TCPStore:
    try:
        return TCPStore(host, port, is_master=holds, timeout=timedelta(seconds=START_SECONDS), wait_for_workers=False)
    except DistError as error:
        what = "hold the ranks' store at" if holds else f"reach rank 0 within {START_SECONDS:.0f} s at"
        remedy = "set MASTER_ADDR to rank 0's address and MASTER_PORT to a free port of it, the same in all processes"
        raise UserError(f"cannot {what} {host}:{port}: {first_line(error)} ({remedy})") from error


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise UserError(f"MASTER_PORT={text!r} in the environment is not a port; give a number from 1 to 65535")
    return int(text)


def slurm_address(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of rank 0 in a Slurm step: MASTER_ADDR and MASTER_PORT if set, else from the step's variables."""
    job, step = environment["SLURM_JOB_ID"], environment["SLURM_STEP_ID"]
    port = _FIRST_PORT + (int(job) * 97 + int(step)) % _PORTS
    if "MASTER_PORT" in environment:
        port = _port(environment["MASTER_PORT"])
    if "MASTER_ADDR" in environment:
        return environment["MASTER_ADDR"], port
    if environment.get("SLURM_STEP_NUM_NODES") == "1":
        return "127.0.0.1", port
    name = _scontrol("show", "hostnames", environment["SLURM_STEP_NODELIST"]).split()[0]
    try:
        socket.getaddrinfo(name, port)
    except socket.gaierror:
        return _node_address(name), port
    return name, port


def _node_address(name: str) -> str:
    """What Slurm itself calls a node by whose name does not resolve."""
    shown = _scontrol("show", "node", name)
    if match := re.search(r"\bNodeAddr=(\S+)", shown):
        return match[1]
    raise UserError(f"the name of the first node, {name!r}, does not resolve, nor is there an address; set MASTER_ADDR")


def _scontrol(*arguments: str) -> str:
    """What Slurm answers."""
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or "").strip()
        raise UserError(
            f"`{' '.join(command)}`, which tells where the first process runs, failed: {said or error}; "
            "set MASTER_ADDR to that node's address in all processes"
        ) from error


def _meet_through_mpi(launch: Launch) -> Meeting:
    """Rank 0 opens the store on a free port and broadcasts where. MPI is finished with at once.

    A rank that fails later could otherwise wait in MPI_Finalize for the others forever, and mpiexec would not notice.
    """
    try:
        import mpi4py

        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there but no MPI library
        raise UserError(
            f"mpiexec started this process but MPI is missing ({first_line(error)}); pip install 'rnet[mpi]'"
        ) from error
    world = MPI.COMM_WORLD
    if world.Get_size() != launch.world_size:
        raise UserError(
            f"mpiexec started {launch.world_size} processes but mpi4py sees {world.Get_size()}: it uses another MPI "
            "library; use that library's mpiexec, or build mpi4py with this one (pip install --no-binary mpi4py mpi4py)"
        )
    machine = world.Split_type(MPI.COMM_TYPE_SHARED)
    local_rank = machine.Get_rank() if launch.local_rank is None else launch.local_rank
    one_machine = machine.Get_size() == world.Get_size()
    machine.Free()
    store = None
    if launch.rank == 0:
        host = os.environ.get("MASTER_ADDR") or ("127.0.0.1" if one_machine else socket.gethostname())
        store = _open_store(host, 0, holds=True)
        address = (host, store.port)
    else:
        address = ("", 0)
    host, port = world.bcast(address, root=0)
    MPI.Finalize()
    return Meeting(store or _open_store(host, port, holds=False), host, local_rank)
