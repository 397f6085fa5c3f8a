"""Slurm's commands are called as if no job were around, and what they say of a submission is understood."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from launch.sweep.clusters.base import Full
from launch.sweep.clusters.sbatch import submit_array
from launch.sweep.clusters.slurm import Slurm
from launch.sweep.clusters.surroundings import outside_of_jobs
from rnet.errors import UserError

USERS = {"PATH": "/bin", "HOME": "/root", "SLURM_CONF": "/etc/slurm.conf", "MYSLURM_X": "1", "SBATCH_ACCOUNT": "lab"}
JOBS = {
    "SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "1000", "SLURM_CPU_BIND": "quiet", "SLURMD_NODENAME": "n1",
    "PMI_RANK": "0", "PMIX_NAMESPACE": "slurm.pmix.7.0", "OMPI_COMM_WORLD_RANK": "0", "SRUN_DEBUG": "3",
}  # fmt: skip

POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


def test_the_variables_of_a_surrounding_job_are_left_out_and_those_of_a_person_kept() -> None:
    assert outside_of_jobs(USERS) == USERS
    assert outside_of_jobs(USERS | JOBS) == {key: USERS[key] for key in USERS if key != "SBATCH_ACCOUNT"}
    assert outside_of_jobs(USERS | {"SQUEUE_STATES": "R", "SLURM_CLUSTERS": "x"}) == USERS


def sbatch(folder: Path, says: str, status: int = 0) -> None:
    code = f"#!{sys.executable}\nimport json, os, sys\n"
    code += f"json.dump([dict(os.environ), sys.argv], open({str(folder / 'called')!r}, 'w'))\n"
    code += f"print({says!r}, file=sys.stderr if {status} else sys.stdout)\nsys.exit({status})\n"
    (folder / "sbatch").write_text(code)
    (folder / "sbatch").chmod(0o700)


@pytest.mark.parametrize(
    ("says", "clusters", "job"),
    [
        ("Submitted batch job 101", None, "101"),
        ("Submitted batch job 101 on cluster north", "south,north", "north:101"),
        ("Submitted batch job 101 on cluster north", None, "101"),
        ("Submitted batch job 101", "north", "north:101"),
        ("101;north", "north", "north:101"),
        ("sbatch: 12 credits are left\nSubmitted batch job 101", None, "101"),
        ("30 jobs are yours; job 7 is the oldest\nSubmitted batch job 101 on cluster north", "north", "north:101"),
        ("2 accounts are yours\n101;north", "north", "north:101"),
        ("12 credits are left for job 8 days\nTravail soumis : job 101.", None, "101"),
    ],
)
def test_sbatch_is_called_outside_of_jobs_and_its_answer_is_the_jobs_id(
    says: str, clusters: str | None, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch(tmp_path, says)
    for name, value in {**JOBS, "SBATCH_PARTITION": "debug"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_CONF", "/there")
    assert submit_array("#!/bin/sh\n", tmp_path / "jobs", print, 5, clusters) == job
    environment, arguments = json.loads((tmp_path / "called").read_text())
    assert environment["SLURM_CONF"] == "/there"
    assert not {*JOBS, "SBATCH_PARTITION"} & environment.keys()
    assert arguments[1:-1] == ([f"--clusters={clusters}"] if clusters else [])
    assert (tmp_path / "jobs" / "task.pkl").exists()


def test_what_the_script_says_counts_for_more_than_a_persons_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch(tmp_path, "Submitted batch job 101")
    for name in JOBS:
        monkeypatch.delenv(name, raising=False)
    kept = {"SBATCH_ACCOUNT": "lab", "SBATCH_RESERVATION": "mine"}
    others = ("TIMELIMIT", "PARTITION", "MEM_PER_CPU", "NO_REQUEUE", "JOB_NAME", "ARRAY_INX", "OUTPUT", "WAIT")
    for name, value in {**kept, **{f"SBATCH_{name}": "1" for name in others}}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = "\n".join(f"#SBATCH --{option}" for option in ("time=60", "partition=gpu", "mem=4096M", "requeue"))
    submit_array(f"#!/bin/sh\n{lines}\n", tmp_path / "jobs", print, 5)
    environment, _ = json.loads((tmp_path / "called").read_text())
    assert {name: value for name, value in environment.items() if name.startswith("SBATCH_")} == kept


@pytest.mark.parametrize("name", ["SBATCH_CLUSTERS", "SLURM_CLUSTERS"])
def test_another_cluster_is_asked_for_in_the_profile(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("sbatch", "srun"):
        (tmp_path / command).touch(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(name, "north")
    Slurm(kind="slurm", clusters="north").require()
    with pytest.raises(UserError, match=f"{name}=north is set, .* write clusters: north"):
        Slurm(kind="slurm").require()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    Slurm(kind="slurm").require()


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates", Full),
        ("sbatch: error: AssocMaxSubmitJobLimit", Full),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", Full),
        ("sbatch: error: Batch job submission failed: Invalid account", UserError),
        (f"sbatch: error: Batch job submission failed: {POLICY}", Full),
        (f"sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: {POLICY}", Full),
        (f"sbatch: error: QOSMinGRES\nsbatch: error: Batch job submission failed: {POLICY}", UserError),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: {POLICY}", UserError),
    ],
)
def test_a_refusal_for_now_is_told_from_one_for_good(
    says: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch(tmp_path, says, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        submit_array("#!/bin/sh\n", tmp_path / "jobs", print, 5)
    assert type(caught.value) is kind
    assert str(caught.value).startswith("sbatch: ")


def test_an_answer_without_a_job_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch(tmp_path, "thank you")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="names no job: 'thank you'"):
        submit_array("#!/bin/sh\n", tmp_path / "jobs", print, 5)
