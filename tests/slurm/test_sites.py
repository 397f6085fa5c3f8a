"""Sites that differ, on a real cluster: accounting that stops, limits of memory per CPU, a submitter that is a job."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.sweep.cli import sweep_app
from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.plan import Plan
from launch.sweep.records import submissions
from launch.sweep.states import StoreState
from launch.sweep.submit import cancel, submit
from rnet.errors import UserError
from tests.launch.sweep.sweeps import tiny_plan
from tests.slurm.cluster import ROOT, at_rest, logs, start_accounting, stop_accounting, wait_until
from tests.slurm.test_sweep_on_slurm import PATIENCE, attempts_of, strict_training, trains

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
QUICK: dict[str, Any] = {
    "until": "train", "axes": {"seed": [0]}, "cases": None,
    "set": ["dataset.image_size=8", "dataset.train_size=200", "model.width=4", "train.epochs=1", "engine.device=cpu"],
}  # fmt: skip


@contextmanager
def partition_with(**limits: object) -> Iterator[None]:
    """Inside, the partition main has these limits."""
    for changes in (limits, dict.fromkeys(limits, 0)):
        settings = [f"{name}={value}" for name, value in changes.items()]
        subprocess.run(["scontrol", "update", "PartitionName=main", *settings], check=True)
        if changes is limits:
            yield


def site_plan(tmp_path: Path, profile: str, **changes: Any) -> Plan:
    """A quick sweep for a profile of its own."""
    (tmp_path / "cluster").mkdir(exist_ok=True)
    (tmp_path / "cluster" / "mine.yaml").write_text(f"kind: slurm\npartition: main\n{profile}\n")
    tiny_plan(tmp_path, **(QUICK | changes))
    return make_plan(tmp_path / "tiny.yaml", ["cluster=mine"], config_dir=tmp_path)


def test_when_accounting_stops_submit_status_retry_and_cancel_go_on(cluster: Path, tmp_path: Path) -> None:
    plan, root = strict_training(tmp_path), tmp_path / "store"
    submit(plan, root)
    wait_until(plan, root, lambda _: trains(root, plan), PATIENCE)
    stop_accounting(cluster)
    try:
        assert [cell.state for cell in StoreState(plan, root, fresh=True).cells] == ["running"]
        assert cancel(plan, root).jobs
        wait_until(plan, root, at_rest, PATIENCE)
        assert submit(plan, root).cells == 1
        wait_until(plan, root, lambda state: [(c.state, c.attempt) for c in state.cells] == [("running", 2)], PATIENCE)
        os.kill(attempts_of(plan, root, 0)[-1]["pid"], signal.SIGKILL)
        state = wait_until(plan, root, at_rest, PATIENCE)
        assert [(cell.state, cell.attempt) for cell in state.cells] == [("failed", 2)]
        assert submit(plan, root, retry=True).cells == 1
        state = wait_until(plan, root, at_rest, PATIENCE)
        assert [(cell.state, cell.attempt) for cell in state.cells] == [("done", 3)]
    finally:
        start_accounting()


def test_a_job_submits_with_the_profile_that_doctor_wrote_where_memory_is_counted_by_cpu(tmp_path: Path) -> None:
    profile, root = tmp_path / "site" / "cluster" / "mine.yaml", tmp_path / "store"
    result = CliRunner().invoke(sweep_app, ["doctor", "--root", str(root), "--write", str(profile)])
    assert result.exit_code == 0, result.output
    assert "partition main (default)" in result.stdout
    with profile.open("a") as file:
        file.write("clusters: dev\nmemory_option: mem-per-cpu\n")
    tiny_plan(tmp_path, **QUICK, resources={"default": {"memory_gb": 0.5}})
    plan = make_plan(tmp_path / "tiny.yaml", ["cluster=mine"], config_dir=profile.parents[1])
    rnet = [sys.executable, "-m", "launch.cli", "sweep", "submit", str(tmp_path / "tiny.yaml"), "cluster=mine",
            "--config-dir", str(profile.parents[1]), "--root", str(root)]  # fmt: skip
    outer = ["sbatch", "--wait", "--ntasks=1", "--cpus-per-task=2", "--mem-per-cpu=300M", "--gpus-per-task=1",
             f"--output={tmp_path}/outer.out", "--wrap", f"srun {shlex.join(rnet)}"]  # fmt: skip
    with partition_with(MaxMemPerCPU=300):
        subprocess.run(outer, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL)
        assert "submitted 1 cells in 1 arrays: dev:" in (tmp_path / "outer.out").read_text()
        state = wait_until(plan, root, at_rest, PATIENCE)
    assert [(cell.state, cell.attempt) for cell in state.cells] == [("done", 1)], logs(root)
    (record,) = submissions.read_all(root)
    assert (state.log_of(0) or root).is_file()
    shown = subprocess.check_output(["scontrol", "show", "job", (record.job or "").removeprefix("dev:")], text=True)
    assert "CPUs/Task=2" in shown  # Slurm's answer to 512 MiB for one CPU
    assert "gres/gpu" not in shown


@pytest.mark.parametrize(
    ("profile", "resources", "words"),
    [
        ("", {"memory_gb": 4}, "train: resources.memory_gb=4 is more than any node of partition=main has, 4000 MiB"),
        ("", {"cpus": 5}, "train: resources.cpus=5 is more than any node of partition=main has, 4 CPUs"),
        (
            "",
            {"gpus": 1, "processes": 3, "memory_gb": 0.5},
            "train: resources.gpus=1 for each of 3 processes is more than .* 2 GPUs",
        ),
        ("gpu_type: a100", {"gpus": 1, "memory_gb": 0.2}, "train: resources.gpus=1 is more than .* of type a100"),
        ("", {"memory_gb": 2}, "train: no node of partition=main .* MaxMemPerCPU makes 7 CPUs of it"),
    ],
)
def test_what_no_node_can_satisfy_is_said_before_the_first_submission(
    profile: str, resources: dict[str, Any], words: str, tmp_path: Path
) -> None:
    changes = {"set": ["engine=ddp", "engine.device=cpu", "dataset.image_size=8", "train.batch_size=48"]}
    plan = site_plan(tmp_path, profile, resources={"default": resources}, **changes)
    with partition_with(MaxMemPerCPU=300), pytest.raises(UserError, match=words):
        submit(plan, tmp_path / "store")
    assert not submissions.read_all(tmp_path / "store")
