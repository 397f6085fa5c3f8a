"""Slurm: the job script, and what its commands say, without a cluster."""

from __future__ import annotations

import re
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from launch.sweep.clusters import slurm_commands
from launch.sweep.clusters.arrays import Array
from launch.sweep.clusters.slurm import Slurm, dependency
from launch.sweep.clusters.slurm_commands import array_states, cancel_jobs, find_jobs
from launch.sweep.plan.resources import Shape
from rnet.errors import UserError
from tests.launch.sweep.clusters.test_arrays import graph


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


def test_each_job_makes_a_token_that_the_script_does_not_show(tmp_path: Path) -> None:
    array = Array(stage="train", shape=Shape(nodes=2, processes=4), tasks=[[0]])
    text = Slurm(kind="slurm").script(tmp_path, array)
    (line,) = [line for line in text.splitlines() if "RNET_TOKEN" in line]
    assert text.index(line) < text.index("srun")
    made = [subprocess.check_output(["bash", "-c", f"{line}; env"], text=True) for _ in range(2)]
    tokens = {re.search(r"^RNET_TOKEN=([0-9a-f]{64})$", environment, re.MULTILINE)[1] for environment in made}  # type: ignore[index]
    assert len(tokens) == 2


@pytest.mark.parametrize(
    ("after", "text"), [({}, None), ({"12": [3, 4], "15": []}, "afterany:12_3:12_4:15"), ({"15": []}, "afterany:15")]
)
def test_a_job_waits_for_tasks_or_whole_arrays(after: dict[str, list[int]], text: str | None) -> None:
    assert dependency(after) == text


def test_what_squeue_and_sacct_say_becomes_a_word_for_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "sacct": "12_0|COMPLETED\n12_1|RUNNING\n12_[2-3,7%4]|PENDING\n12_4|CANCELLED by 1000\n12_5|TIMEOUT\n"
        "12_6|OUT_OF_MEMORY\n12_8|NODE_FAIL\n13_0|RUNNING\n13_2|RUNNING\n13_3|PENDING\n",
        "squeue": "12|1|RUNNING|10:01\n12|2-3,7%4|PENDING|0:00\n13|0|RUNNING|9:59\n13|1|COMPLETING|1-00:00:00\n",
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
    assert asked == ["squeue", "sacct"]
    said["sacct"] = said["squeue"] = ""
    assert array_states(["12"]) == {}


@pytest.mark.parametrize(
    "words",
    ["Slurm accounting storage is disabled", "sacct: error: Connection refused", "slurmdbd: no such host", None],
)
def test_where_sacct_is_no_help_the_queue_is_asked_alone(
    words: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    queue = "12|0|PENDING|0:00|Resources\n12|1|COMPLETED|3:00|None\n12|2|TIMEOUT|3:00|TimeLimit"
    _stand_in(tmp_path, "squeue", f"case $* in *--name*) echo 'rnet-train-x|12';; *) echo '{queue}';; esac")
    if words:
        _stand_in(tmp_path, "sacct", f"echo '{words}' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert array_states(["12"]) == {"12_0": "pending", "12_1": "done", "12_2": "timed out"}
    assert find_jobs(["rnet-train-x"]) == {"rnet-train-x": "12"}


def test_a_queue_that_does_not_answer_is_not_taken_for_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _stand_in(tmp_path, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    _stand_in(tmp_path, "sacct", "echo '12_0|COMPLETED'")
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (lambda: array_states(["12"]), lambda: find_jobs(["rnet-train-x"])):
        with pytest.raises(UserError, match=r"squeue: .*Unable to contact slurm controller"):
            ask()


@pytest.mark.parametrize(
    ("queue", "accounts", "word"),
    [
        ("RUNNING|0:10|None", "", "running"),
        ("SUSPENDED|1-00:00:00|None", "", "running"),
        ("CONFIGURING|0:00|None", "", "pending"),
        ("REQUEUED|0:00|BeginTime", "COMPLETED", "pending"),
        ("PENDING|0:00|launch_failed_requeued_held", "", None),
        ("PENDING|0:00|launch failed requeued held", "", None),
        ("PENDING|0:00|DependencyNeverSatisfied", "", None),
        ("REQUEUE_HOLD|0:00|job requeued in held state", "", None),
        ("SPECIAL_EXIT|0:00|None", "FAILED", None),
        ("REVOKED|0:00|None", "", "lost"),
        ("NODE_FAIL|0:10|None", "RUNNING", "lost"),
        ("PONDERING|0:00|None", "", None),
        ("", "PONDERING", None),
        ("", "RUNNING", None),
        ("", "CANCELLED by 1000", "cancelled"),
    ],
)
def test_no_state_but_those_that_mean_it_is_pending_or_running(
    queue: str, accounts: str, word: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _stand_in(tmp_path, "squeue", f"echo '{f'12|0|{queue}' if queue else ''}'")
    _stand_in(tmp_path, "sacct", f"echo '{f'12_0|{accounts}' if accounts else ''}'")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert array_states(["12"]) == ({"12_0": word} if word else {})


def test_the_clusters_of_a_federation_are_asked_and_told_each_of_its_own_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = tmp_path / "called"
    _stand_in(tmp_path, "squeue", "case $* in *=north*) echo 'CLUSTER: north\n12|0|RUNNING|0:10|None';; esac")
    _stand_in(tmp_path, "sacct", "case $* in *=south*) echo '12_0|TIMEOUT';; esac")
    _stand_in(tmp_path, "scancel", f"echo $* >> {called}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert array_states(["north:12", "south:12"]) == {"north:12_0": "running", "south:12_0": "timed out"}
    cancel_jobs(["north:12", "south:12_0", "south:13"])
    assert called.read_text() == "--clusters=north 12\n--clusters=south 12_0 13\n"


def test_arrays_are_as_long_as_the_site_allows_or_the_profile_where_it_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = graph(1, 1, 9)
    cells = range(len(plan.cells))
    monkeypatch.setenv("PATH", str(tmp_path))
    sizes = []
    for line in ("echo MaxArraySize = 4", "echo 'Access/permission denied' >&2; exit 1"):
        _stand_in(tmp_path, "scontrol", line)
        sizes.append(max(len(array.tasks) for array in Slurm(kind="slurm", max_array_size=7).arrays(plan, cells)))
    assert sizes == [3, 7]


def test_a_persons_partition_is_the_one_that_requests_are_checked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes = "NodeName=a CPUTot=1 Partitions=small\nNodeName=b CPUTot=8 RealMemory=9000 Partitions=big"
    partitions = "PartitionName=small Default=YES\nPartitionName=big Default=NO"
    _stand_in(tmp_path, "scontrol", f"case $* in *nodes) echo '{nodes}';; *) echo '{partitions}';; esac")
    monkeypatch.setenv("PATH", str(tmp_path))
    arrays = [Array(stage="train", shape=Shape(cpus=8), tasks=[[0]])]
    with pytest.raises(UserError, match="partition=small"):
        Slurm(kind="slurm").check(arrays)
    monkeypatch.setenv("SBATCH_PARTITION", "big")
    Slurm(kind="slurm").check(arrays)
    with pytest.raises(UserError, match="partition=small"):
        Slurm(kind="slurm", partition="small").check(arrays)


def test_a_time_that_is_too_long_since_cells_share_tasks_is_told_as_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = "*config) ;; *nodes) echo NodeName=a CPUTot=1 RealMemory=9000 Partitions=p;;"
    _stand_in(tmp_path, "scontrol", f"case $* in {answers} *) echo PartitionName=p Default=YES MaxTime=90;; esac")
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = graph(1, 4, 4)
    words = r"resources.minutes=60, 8 times as a low max_submissions makes cells share a task, is above .* 90 minutes"
    for most, share in ((4, True), (20, False)):
        cluster = Slurm(kind="slurm", max_array_size=2, max_submissions=most)
        arrays = cluster.arrays(plan, range(len(plan.cells)))
        with pytest.raises(UserError, match=words) if share else nullcontext():
            cluster.check(arrays)


def _stand_in(folder: Path, name: str, line: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{line}\n")
    (folder / name).chmod(0o700)


@pytest.mark.parametrize(
    ("sbatch", "there", "not_there"),
    [
        ({"mem-per-cpu": "4G"}, ["mem-per-cpu=4G", "requeue", "gpus-per-task=1"], ["mem="]),
        ({"mem_per_cpu": "4G", "mem": None}, ["mem-per-cpu=4G"], ["mem=", "None"]),
        ({"mem": "0", "exclusive": True}, ["mem=0", "exclusive"], ["mem=4096M"]),
        ({"mem": None}, ["requeue"], ["mem"]),
        ({"gres": "gpu:a100:1"}, ["gres=gpu:a100:1", "mem=4096M"], ["gpus-per-task"]),
        ({"gpus-per-node": "1", "gpus-per-task": None}, ["gpus-per-node=1"], ["gpus-per-task"]),
        ({"requeue": False, "nice": "100"}, ["no-requeue", "nice=100"], ["SBATCH --requeue"]),
        ({"cpus_per_task": None, "time": None}, ["nodes=1"], ["cpus-per-task", "time"]),
        ({"ntasks-per-node": "2", "partition": "x", "signal": False}, ["ntasks-per-node=2"], ["node=1", "signal"]),
    ],
)
def test_what_a_site_asks_for_in_its_own_way_replaces_what_rnet_asks_for(
    sbatch: dict[str, Any], there: list[str], not_there: list[str], tmp_path: Path
) -> None:
    array = Array(stage="train", shape=Shape(gpus=1), tasks=[[0]])
    script = Slurm(kind="slurm", sbatch=sbatch).script(tmp_path, array)
    lines = "\n".join(line for line in script.splitlines() if line.startswith("#SBATCH"))
    assert all(f"#SBATCH --{option}\n" in f"{lines}\n" for option in there)
    assert not any(option in lines for option in not_there)


@pytest.mark.parametrize(
    ("profile", "line"),
    [
        ({}, "gpus-per-task=1 mem=61440M"),
        ({"gpu_type": "a100"}, "gpus-per-task=a100:1 mem=61440M"),
        ({"gpu_option": "gres", "memory_option": "mem-per-cpu"}, "gres=gpu:4 mem-per-cpu=1920M"),
        ({"gpu_option": "gres", "gpu_type": "1g.10gb"}, "gres=gpu:1g.10gb:4 mem=61440M"),
        ({"gpu_option": "gpus-per-node", "memory_option": "none"}, "gpus-per-node=4"),
        ({"gpu_option": "gpus", "gpu_type": "h100", "memory_option": "mem-per-gpu"}, "gpus=h100:8 mem-per-gpu=15360M"),
    ],
)
def test_memory_and_gpus_are_asked_for_as_the_site_wants_it(profile: dict[str, Any], line: str, tmp_path: Path) -> None:
    shape = Shape(nodes=2, processes=4, gpus=1, cpus=8, memory_gb=60)
    script = Slurm(kind="slurm", **profile).script(tmp_path, Array(stage="train", shape=shape, tasks=[[0]]))
    assert " ".join(sorted(re.findall(r"^#SBATCH --((?:mem|gres|gpus)\S*)", script, re.MULTILINE))) == line
    without = Slurm(kind="slurm", **profile).script(tmp_path, Array(stage="train", shape=Shape(), tasks=[[0]]))
    assert not re.search(r"^#SBATCH --(gres|gpus|mem-per-gpu)", without, re.MULTILINE)


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"sbatch": {"array": "0-3"}}, "sbatch.array='0-3' cannot be set"),
        ({"sbatch": {"job_name": "x"}}, "sbatch.job_name='x' cannot be set"),
        ({"sbatch": {"mem": "1G", "mem-per-cpu": "1G"}}, "exclude each other"),
        ({"sbatch": {"mail_type": "END", "mail-type": "END"}}, "there twice"),
        ({"sbatch": {"clusters": "x"}}, "write clusters: NAME beside partition"),
        ({"gpu_option": "gpu"}, "gpu_option='gpu' does not exist"),
        ({"memory_option": "ram"}, "memory_option='ram' does not exist"),
    ],
)
def test_what_no_site_can_mean_is_refused(profile: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Slurm(kind="slurm", **profile)


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
