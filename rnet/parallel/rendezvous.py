"""Where the processes of one run meet: a store on rank 0 that all who know the run's token can find and use.

Nobody else can: whoever reaches its port without the token is put out. Who tells the token:

    MPI                  rank 0, in a broadcast
    one machine          rank 0, in a file that only its user can read; the store listens on loopback
    several machines     the user, as RNET_TOKEN in the environment of all processes
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from rnet.errors import UserError, first_line
from rnet.parallel.channel import Refused
from rnet.parallel.launch import TOKEN, Launch
from rnet.parallel.notice import Notice
from rnet.parallel.store import RanksStore, StoreServer

# Processes of one job do not start together: imports from a busy file system can take minutes.
START_SECONDS = 600.0
# A store that refuses the token may be one of another run, at a port where ours will be soon.
_REFUSED_SECONDS = 60.0
_ANSWER_SECONDS = 5.0
_RETRY_SECONDS = 0.05
# Ports that a launch does not name: above Slurm's own, below the ephemeral ones, and a prime number of them.
_FIRST_PORT, _PORTS, _TRIES = 20000, 11987, 8
LOOPBACK = "127.0.0.1"
_SHORTEST_TOKEN = 16
_REMEDY = f"export {TOKEN}=$(openssl rand -hex 32) before torchrun or srun, the same in all processes"


@dataclass(frozen=True)
class Meeting:
    """The store all ranks share, this process's number on its machine, and whether all ranks are on that machine."""

    store: RanksStore
    local_rank: int
    one_machine: bool
    settle: Callable[[], None] = lambda: None
    """To be called when all have met: rank 0 then takes away what they found it by."""


@cache
def rendezvous(launch: Launch) -> Meeting:
    """Meets the other processes, once: MPI starts only once, and the store lives until the process ends.

    Raises UserError if the address or the token is unknown, if nobody answers there within START_SECONDS, and if
    another process is this rank already.
    """
    if launch.launcher == "mpi":
        meeting = _meet_through_mpi(launch)
    elif on_one_machine(launch, os.environ):
        meeting = _meet_on_one_machine(launch, Notice(_names_of(launch, os.environ)))
    else:
        meeting = _meet_by_token(launch)
    me = secrets.token_hex(8)
    if meeting.store.compare_set(f"rank/{launch.rank}", "", me) != me.encode():
        raise UserError(
            f"the ranks' store at {meeting.store.host}:{meeting.store.port} has a rank {launch.rank} already: "
            "two launches share MASTER_ADDR and MASTER_PORT; give each another MASTER_PORT"
        )
    return meeting


def on_one_machine(launch: Launch, environment: Mapping[str, str]) -> bool:
    """Whether all ranks run here, as far as torchrun, srun or an address that nobody else could reach tell."""
    if launch.launcher == "slurm":
        return environment.get("SLURM_STEP_NUM_NODES") == "1"
    if launch.local_world_size is not None:
        return launch.local_world_size == launch.world_size
    return re.fullmatch(r"localhost|127(\.\d+){3}|::1", environment["MASTER_ADDR"]) is not None


def _names_of(launch: Launch, environment: Mapping[str, str]) -> list[str]:
    """What all processes of one launch have in common, and no two launches at the same time."""
    if launch.launcher == "slurm":
        names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID")
    else:
        names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    return [launch.launcher, *(environment.get(name, "") for name in names)]


def _meet_on_one_machine(launch: Launch, notice: Notice) -> Meeting:
    assert launch.local_rank is not None, "torchrun and srun always tell"
    if launch.rank > 0:
        store = _reach(lambda: iter(_one_or_none(notice)), f"through the file {notice.path}")
        return Meeting(store, launch.local_rank, one_machine=True)
    token = secrets.token_bytes(32)
    server = _serve([(LOOPBACK, 0)], token)
    notice.remove_old(2 * START_SECONDS)
    while not notice.write(server.port, token):
        for host, port, other in _one_or_none(notice):
            with suppress(OSError, Refused):
                RanksStore(host, port, other, seconds=_ANSWER_SECONDS)
                server.close()
                raise UserError(
                    f"another run is meeting on this machine under the same names (file {notice.path}, port {port}); "
                    "give each run another MASTER_PORT"
                )
        notice.remove()  # of a run that is dead
    store = RanksStore(LOOPBACK, server.port, token, seconds=_ANSWER_SECONDS)
    return Meeting(store, launch.local_rank, one_machine=True, settle=notice.remove)


def _one_or_none(notice: Notice) -> list[tuple[str, int, bytes]]:
    found = notice.read()
    return [] if found is None else [(LOOPBACK, *found)]


def _meet_by_token(launch: Launch) -> Meeting:
    """On several machines: at an address that all know, with a token that all were given."""
    assert launch.local_rank is not None, "torchrun and srun always tell"
    token = given_token(os.environ)
    host, ports = address(launch, os.environ)
    if launch.rank == 0:
        server = _serve([(_own_address(host), port) for port in ports], token)
        store = RanksStore(_own_address(host) or LOOPBACK, server.port, token, seconds=_ANSWER_SECONDS)
        return Meeting(store, launch.local_rank, one_machine=False)
    places = [(host, port, token) for port in ports]
    store = _reach(lambda: iter(places), f"at {host}, port {' or '.join(map(str, ports))}")
    return Meeting(store, launch.local_rank, one_machine=False)


def given_token(environment: Mapping[str, str]) -> bytes:
    """RNET_TOKEN. Raises UserError if there is none, or it is short enough to be guessed."""
    token = environment.get(TOKEN, "")
    if not token:
        raise UserError(f"{TOKEN} is not set, and ranks on several machines prove by it who they are; {_REMEDY}")
    if len(token) < _SHORTEST_TOKEN:
        raise UserError(f"{TOKEN} has {len(token)} characters and could be guessed; {_REMEDY}")
    return token.encode()


def address(launch: Launch, environment: Mapping[str, str]) -> tuple[str, list[int]]:
    """The host of rank 0, and the ports of which it takes the first that is free.

    torchrun holds MASTER_PORT itself, and srun names none: then the ports follow from the launch.
    """
    host = slurm_host(environment) if launch.launcher == "slurm" else environment["MASTER_ADDR"]
    in_agent = launch.launcher == "torchrun" and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if environment.get("MASTER_PORT") and not in_agent:
        return host, [_port(environment["MASTER_PORT"])]
    digest = hashlib.sha256("\0".join(_names_of(launch, environment)).encode()).digest()
    first = int.from_bytes(digest[:8], "big")
    return host, [_FIRST_PORT + (first + number * 97) % _PORTS for number in range(_TRIES)]


def _serve(places: Sequence[tuple[str, int]], token: bytes) -> StoreServer:
    """The store at the first place that is free."""
    for host, port in places:
        try:
            return StoreServer(host, port, token)
        except OSError as error:
            problem = error
    host, ports = places[0][0], " and ".join(str(port) for _, port in places)
    raise UserError(
        f"rank 0 cannot hold the ranks' store at {host or 'this machine'}:{ports}: {problem.strerror} "
        "(set MASTER_PORT to a port that is free on rank 0's machine, the same in all processes)"
    ) from problem


def _reach(places: Callable[[], Iterator[tuple[str, int, bytes]]], where: str) -> RanksStore:
    """Rank 0's store, at the first place where somebody proves that he knows the token. Tries for START_SECONDS."""
    began = time.monotonic()
    refused: float | None = None
    said = "rank 0 has not said where it is"
    while time.monotonic() - began < START_SECONDS:
        for host, port, token in places():
            try:
                return RanksStore(host, port, token, seconds=_ANSWER_SECONDS)
            except Refused as error:
                refused = refused or time.monotonic()
                if time.monotonic() - refused > _REFUSED_SECONDS:
                    raise UserError(
                        f"the ranks' store at {host}:{port} refuses this process: {error}; set {TOKEN} to the same in "
                        "all processes of a run"
                    ) from None
            except OSError as error:
                said = f"{host}:{port}: {first_line(error)}"
        time.sleep(_RETRY_SECONDS)
    raise UserError(
        f"cannot reach rank 0 within {START_SECONDS:.0f} s {where}: {said} (was it started, with the same MASTER_ADDR, "
        "MASTER_PORT and temporary folder as this process?)"
    )


def _own_address(host: str) -> str:
    """The address by which others know this machine, if it is one of its own that others can reach, else all ("")."""
    with suppress(OSError):
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], socket.SOCK_STREAM) as probe:
            probe.bind(found[4])
        name = str(found[4][0])
        if not name.startswith("127.") and name != "::1":
            return name
    return ""


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise UserError(f"MASTER_PORT={text!r} in the environment is not a port; give a number from 1 to 65535")
    return int(text)


def slurm_host(environment: Mapping[str, str]) -> str:
    """The first node of a Slurm step: MASTER_ADDR if set, else from the step's variables."""
    if "MASTER_ADDR" in environment:
        return environment["MASTER_ADDR"]
    name = _scontrol("show", "hostnames", environment["SLURM_STEP_NODELIST"]).split()[0]
    try:
        socket.getaddrinfo(name, None)
    except socket.gaierror:
        return _node_address(name)
    return name


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
    """Rank 0 opens the store on a free port and broadcasts where, with the token. MPI is finished with at once.

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
    if launch.rank == 0:
        host = LOOPBACK if one_machine else os.environ.get("MASTER_ADDR") or socket.gethostname()
        token = secrets.token_bytes(32)
        server = _serve([(LOOPBACK if one_machine else _own_address(host), 0)], token)
        told = json.dumps([host, server.port, token.hex()]).encode().ljust(_TOLD_BYTES)
    else:
        told = bytes(_TOLD_BYTES)
    buffer = bytearray(told)
    world.Bcast(buffer, root=0)  # as bytes: bcast() would unpickle what it receives
    MPI.Finalize()
    host, port, token_hex = json.loads(buffer)
    token = bytes.fromhex(token_hex)
    if launch.rank == 0:
        host = LOOPBACK if one_machine else _own_address(host) or LOOPBACK
    store = _reach(lambda: iter([(host, port, token)]), f"at {host}, port {port}")
    return Meeting(store, local_rank, one_machine)


_TOLD_BYTES = 1024
"""Room for a host's name, a port and a token."""
