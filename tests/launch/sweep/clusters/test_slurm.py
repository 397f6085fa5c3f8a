"""Slurm: the job script, and what its commands say, without a cluster."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launch.sweep.clusters import slurm_commands
from launch.sweep.clusters.arrays import Array
from launch.sweep.clusters.slurm import Slurm, dependency
from launch.sweep.clusters.slurm_commands import array_states
from launch.sweep.plan.resources import Shape


def test_the_job_script_says_what_was_asked_for(tmp_path: Path) -> None:
    cluster = Slurm(
        kind="slurm", partition="gpu", account="us", qos="high", constraint="a100", setup=["module load cuda"],
        max_parallel=7, signal_seconds=120, python="apptainer exec --nv rnet.sif python", sbatch={"mail-type": "END"},
    )  # fmt: skip
    shape = Shape(nodes=2, processes=4, gpus=1, cpus=8, memory_gb=60, minutes=90)
    text = cluster.script(tmp_path, Array(stage="train", shape=shape, tasks=[[index] for index in range(50)]))
    for line in (
        "--partition=gpu", "--account=us", "--qos=high", "--constraint=a100", "--array=0-49%7", "--nodes=2",
        "--ntasks-per-node=4", "--gpus-per-task=1", "--cpus-per-task=8", "--mem=61440M", "--time=90",
        "--signal=USR2@120", "--requeue", "--mail-type=END",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert text.index("module load cuda") < text.index("srun")
    assert "apptainer exec --nv rnet.sif python -u -m submitit.core._submit" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("after", "text"), [({}, None), ({"12": [3, 4], "15": []}, "afterany:12_3:12_4:15"), ({"15": []}, "afterany:15")]
)
def test_a_job_waits_for_tasks_or_whole_arrays(after: dict[str, list[int]], text: str | None) -> None:
    assert dependency(after) == text


def test_what_squeue_and_sacct_say_becomes_a_word_for_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "sacct": "12_0|COMPLETED\n12_1|RUNNING\n12_[2-3,7%4]|PENDING\n12_4|CANCELLED by 1000\n12_5|TIMEOUT\n"
        "12_6|OUT_OF_MEMORY\n12_8|NODE_FAIL\n13_0|RUNNING\n",
        "squeue": "12_[1]|RUNNING|10:01\n12_[2-3,7]|PENDING|0:00\n13_[0]|RUNNING|9:59\n13_[1]|COMPLETING|1-00:00:00\n",
    }
    asked = []

    def ask(command: list[str], **_: bool) -> str:
        asked.append(command[0])
        return said[command[0]]

    monkeypatch.setattr(slurm_commands, "ask", ask)
    assert array_states(["12", "13"]) == {
        "12_0": "done", "12_1": "running long", "12_2": "pending", "12_3": "pending", "12_7": "pending",
        "12_4": "cancelled", "12_5": "timed out", "12_6": "failed", "12_8": "lost", "13_0": "running",
        "13_1": "running",
    }  # fmt: skip
    assert asked == ["sacct", "squeue"]
    said["sacct"] = said["squeue"] = ""
    assert array_states(["12"]) == {}


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(137, 0, True), (137, 2, False), (1, 0, False), (0, 0, False)]
)
def test_only_a_task_killed_by_a_signal_is_started_again_by_its_script(
    code: int, restarts: int, requeued: bool, tmp_path: Path
) -> None:
    script = Slurm(kind="slurm").script(tmp_path, Array(stage="train", shape=Shape(), tasks=[[0]]))
    teardown = script[script.index("# teardown") :]
    called = tmp_path / "called"
    stand_ins = f"scontrol() {{ echo $* > {called}; }}; sleep() {{ :; }}\n(exit {code})\n"
    variables: dict[str, Any] = {
        "SLURM_RESTART_COUNT": str(restarts), "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "6",
        "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    done = subprocess.run(["bash"], input=stand_ins + teardown, text=True, env=variables)
    assert done.returncode == code
    assert called.exists() == requeued
    if requeued:
        assert re.fullmatch(r"requeue 5_6\n", called.read_text())
