"""Who a process is under each launcher, where processes meet, and groups of real processes under all launchers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from rnet.errors import UserError
from rnet.parallel import processes, rendezvous
from rnet.parallel.launch import SINGLE, Launch, launched
from rnet.parallel.processes import process_group
from rnet.parallel.rendezvous import address, given_token, on_one_machine, slurm_host
from tests.parallel.multiprocess import LAUNCHERS, run_ranks

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
# What sbatch tells its script, and what srun tells a task on top of it.
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SRUN = BATCH | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0"}
HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "2"}


def launch(launcher: str, rank: int, local_rank: int | None, local_world_size: int | None = None) -> Launch:
    return Launch(launcher=launcher, rank=rank, world_size=4, local_rank=local_rank, local_world_size=local_world_size)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, SINGLE),
        (TORCHRUN, launch("torchrun", 1, 1)),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, launch("torchrun", 1, 1, 2)),
        (TORCHRUN | OPEN_MPI | SRUN, launch("torchrun", 1, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, SINGLE),
        (OPEN_MPI, launch("mpi", 3, 1, 2)),
        (OPEN_MPI | SRUN | HYDRA, launch("mpi", 3, 1, 2)),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, launch("mpi", 0, None)),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, SINGLE),
        (BATCH, SINGLE),
        (SRUN, launch("slurm", 2, 0)),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, SINGLE),
        (SRUN | {"PMI_SIZE": "4", "PMI_RANK": "2"}, launch("slurm", 2, 0)),  # srun --mpi=pmi2
        (SRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"} | HYDRA, launch("mpi", 2, None)),
        (BATCH | HYDRA, launch("mpi", 2, None)),
        (HYDRA | {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}, launch("mpi", 2, 0, 2)),
    ],
)
def test_the_environment_tells_who_this_process_is(environment: dict[str, str], expected: Launch) -> None:
    assert launched(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "RANK is set in the environment but WORLD_SIZE is not; start the processes with torchrun"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set in the environment but RANK is not"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK is set in the environment but LOCAL_RANK is not"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "RANK is set in the environment but MASTER_ADDR is not"),
        ({**TORCHRUN, "RANK": "one"}, "RANK='one' is not an integer"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4 is not one of WORLD_SIZE=4 processes"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK=-1 is not one of WORLD_SIZE=4 processes"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "RANK=1 is not one of WORLD_SIZE=0 processes"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "LOCAL_RANK=4 is not one of WORLD_SIZE=4 processes"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK=1 is not one of LOCAL_WORLD_SIZE=1 processes"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE is not; start the processes with mpiexec"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID is not; start the processes with srun"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "SLURM_LOCALID is not"),
        ({"PMI_RANK": "0"}, "PMI_SIZE is not; start the processes with mpiexec"),
    ],
)
def test_incomplete_and_contradictory_variables_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        launched(environment)


STEP = {
    "SLURM_JOB_ID": "12345678",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "localhost,n[1-2]",
}


def answers(monkeypatch: pytest.MonkeyPatch, shown: dict[tuple[str, ...], str]) -> None:
    """Lets scontrol say that, and fail for other questions."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "scontrol"
        if (question := tuple(command[2:])) not in shown:
            raise subprocess.CalledProcessError(1, command, stderr="slurm_load_node error: no controller\n")
        return subprocess.CompletedProcess(command, 0, stdout=shown[question])

    monkeypatch.setattr(rendezvous.subprocess, "run", run)


def test_the_ranks_of_a_slurm_step_meet_at_its_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {("hostnames", "localhost,n[1-2]"): "localhost\nn1\nn2\n"})
    slurm = launch("slurm", 0, 0)
    host, ports = address(slurm, STEP)
    assert host == "localhost"
    assert address(slurm, STEP) == (host, ports)
    assert address(slurm, {**STEP, "MASTER_ADDR": "mine", "MASTER_PORT": "1234"}) == ("mine", [1234])


def test_ranks_under_torchrun_do_not_meet_at_the_port_that_torchrun_holds() -> None:
    torchrun = launch("torchrun", 0, 0)
    assert address(torchrun, TORCHRUN) == ("host", [29500])
    held = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "a"}
    host, ports = address(torchrun, held)
    assert (host, len(set(ports))) == ("host", 8)
    assert 29500 not in ports
    assert address(torchrun, {**held, "RANK": "3", "LOCAL_RANK": "0"}) == (host, ports)
    assert address(torchrun, {**held, "TORCHELASTIC_RUN_ID": "b"}) != (host, ports)


@pytest.mark.parametrize(
    ("told", "environment", "expected"),
    [
        (launch("torchrun", 1, 1, 4), {"MASTER_ADDR": "host"}, True),
        (launch("torchrun", 1, 1, 2), {"MASTER_ADDR": "127.0.0.1"}, False),
        (launch("torchrun", 1, 1), {"MASTER_ADDR": "127.0.0.1"}, True),
        (launch("torchrun", 1, 1), {"MASTER_ADDR": "localhost"}, True),
        (launch("torchrun", 1, 1), {"MASTER_ADDR": "127.0.0.1.example.org"}, False),
        (launch("torchrun", 1, 1), {"MASTER_ADDR": "10.0.0.1"}, False),
        (launch("slurm", 1, 1), {"SLURM_STEP_NUM_NODES": "1", "MASTER_ADDR": "host"}, True),
        (launch("slurm", 1, 1), {"SLURM_STEP_NUM_NODES": "2"}, False),
        (launch("slurm", 1, 1), {}, False),
    ],
)
def test_loopback_is_enough_only_where_all_ranks_are_local(
    told: Launch, environment: dict[str, str], expected: bool
) -> None:
    assert on_one_machine(told, environment) == expected


@pytest.mark.parametrize(("token", "message"), [(None, "is not set"), ("x" * 15, "could be guessed")])
def test_several_machines_demand_a_token_and_say_how_to_make_one(token: str | None, message: str) -> None:
    with pytest.raises(UserError, match=rf"^RNET_TOKEN.*{message}.*export RNET_TOKEN=\$\(openssl rand -hex 32\)"):
        given_token({} if token is None else {"RNET_TOKEN": token})
    assert given_token({"RNET_TOKEN": "x" * 16}) == b"x" * 16


@pytest.mark.slurm
@pytest.mark.skipif(not shutil.which("scontrol"), reason="Slurm is not installed")
def test_scontrol_expands_a_list_of_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=test\nSlurmctldHost=localhost\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert rendezvous._scontrol("show", "hostnames", "n[08-10,7]").split() == ["n08", "n09", "n10", "n7"]


def test_without_scontrol_the_remedy_is_to_name_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"`scontrol show hostnames localhost,n\[1-2\]`.*failed.*set MASTER_ADDR"):
        slurm_host(STEP)


def test_what_scontrol_says_when_it_fails_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {})
    with pytest.raises(UserError, match=r"failed: slurm_load_node error: no controller; set MASTER_ADDR"):
        slurm_host(STEP)


def test_the_ports_of_neighbouring_steps_and_jobs_differ_and_are_not_ephemeral() -> None:
    steps = [{**STEP, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)} for job in range(40) for step in range(40)]
    steps = [{**step, "MASTER_ADDR": "mine"} for step in [*steps, {**STEP, "SLURM_STEP_ID": str(2**32 - 6)}]]
    ports = [address(launch("slurm", 0, 0), step)[1] for step in steps]
    assert len({tuple(some) for some in ports}) > 0.9 * len(steps)
    assert all(10000 < port < 32768 for some in ports for port in some)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [("NodeName=n1 Arch=x86_64\n   NodeAddr=10.0.0.7 NodeHostName=n1\n", "10.0.0.7"), ("Node n1 not found\n", None)],
)
def test_slurm_is_asked_for_the_address_of_a_node_whose_name_does_not_resolve(
    monkeypatch: pytest.MonkeyPatch, shown: str, expected: str | None
) -> None:
    name = "no-such-host.invalid"
    answers(monkeypatch, {("hostnames", f"{name},b"): f"{name}\nb\n", ("node", name): shown})
    step = {**STEP, "SLURM_STEP_NODELIST": f"{name},b"}
    if expected is None:
        with pytest.raises(UserError, match=r"'no-such-host.invalid', does not resolve.*set MASTER_ADDR"):
            slurm_host(step)
    else:
        assert slurm_host(step) == expected


@pytest.mark.parametrize(
    ("device_type", "backend", "message"),
    [
        ("cpu", "nccl", "backend='nccl' needs CUDA but the device is cpu; use auto or gloo"),
        ("cpu", "ncc", "did you mean nccl"),
        ("gpu", "auto", "device type='gpu' does not exist"),
    ],
)
def test_backends_the_device_has_not_got_are_refused(device_type: str, backend: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)), process_group(SINGLE, device_type, backend=backend):
        pass


def test_one_process_needs_no_group() -> None:
    with process_group(SINGLE, "cpu"):
        assert not dist.is_initialized()


def test_each_process_of_a_machine_takes_its_own_cuda_device() -> None:
    assert [processes._device_index(local_rank, 4) for local_rank in range(4)] == [0, 1, 2, 3]
    assert processes._device_index(3, 1) == 0  # a launcher that shows each process its own device only
    for devices in (0, 2):
        with pytest.raises(UserError, match=f"{devices} CUDA devices but its process 3 is starting"):
            processes._device_index(2, devices)


def test_two_ranks_on_one_cuda_device_are_refused() -> None:
    store = HashStore()
    processes._claim_device(store, 0, "uuid-a")
    processes._claim_device(store, 1, "uuid-b")
    with pytest.raises(UserError, match="ranks 0 and 2 got the same CUDA device uuid-a"):
        processes._claim_device(store, 2, "uuid-a")


# Two groups one after the other, models that know them, ranks that come and go at different times, and an exception
# all agree on.
PROGRAM = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from rnet.parallel.launch import launched
from rnet.parallel.processes import process_group

def threads():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]

def step():
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2).to(sys.argv[1]))
    model(torch.ones(3, 4, device=sys.argv[1])).sum().backward()
    model.cycle = [model]
    if delay:
        raise StopIteration

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
me = launched()
before = [os.environ.get(name) for name in NAMES]
for delay in (0.0, 0.7):
    try:
        with process_group(me, sys.argv[1], agreed=(StopIteration,)):
            assert os.environ["RANK"] == str(dist.get_rank()) == str(me.rank)
            assert os.environ["WORLD_SIZE"] == str(dist.get_world_size())
            assert all(os.environ[name] for name in NAMES)
            value = torch.tensor([1.0 + me.rank], device=sys.argv[1])
            dist.all_reduce(value)
            time.sleep(delay * me.rank)
            assert not threads() or dist.get_backend() != "gloo" or "pt_gloo_runloop" in threads()
            step()
            os.write(1, f"{me.launcher} {dist.get_backend()} {value.item()}\\n".encode())
        assert not delay
    except StopIteration:
        assert delay
    assert not dist.is_initialized()
    assert not [name for name in threads() if "gloo" in name]  # one that ends with the interpreter may abort it
    assert [os.environ.get(name) for name in NAMES] == before
time.sleep(0.7 * me.rank)
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_work_together_and_part_in_silence(launcher: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    outcomes = run_ranks(launcher, program, "cpu")
    assert [outcome.returncode for outcome in outcomes] == [0] * len(outcomes)
    name = "mpi" if launcher == "mpi" else "torchrun"
    assert "".join(outcome.stdout for outcome in outcomes) == 2 * f"{name} gloo 3.0\n"
    assert "".join(outcome.stderr for outcome in outcomes) == ""


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_processes_work_together_on_two_cuda_devices(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    outcomes = run_ranks("plain", program, "cuda")
    assert [outcome.returncode for outcome in outcomes] == [0, 0]
    assert "".join(outcome.stdout for outcome in outcomes) == 2 * "torchrun nccl 3.0\n"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() != 1, reason="needs exactly one CUDA device")
def test_two_processes_with_one_cuda_device_are_refused(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    outcomes = run_ranks("plain", program, "cuda")
    assert [outcome.returncode for outcome in outcomes] == [1, 1]
    assert any("got the same CUDA device" in outcome.stderr for outcome in outcomes)
