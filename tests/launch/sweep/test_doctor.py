"""What rnet sweep doctor says of sites of several kinds, and that the profile it writes is one that sweeps can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from launch.sweep.cli import sweep_app
from launch.sweep.clusters.base import make_cluster
from launch.sweep.clusters.site import Ask, read_site
from launch.sweep.doctor.here import folder_findings
from launch.sweep.doctor.profile import write_profile
from launch.sweep.doctor.site import findings_of
from launch.sweep.plan.resources import load_profile
from rnet.errors import UserError

GPUS = {
    "config": "ClusterName = big\nPreemptParameters =\nPreemptType = preempt/qos\nPreemptMode = CANCEL\n"
    "MaxArraySize = 1001\nAccountingStorageEnforce = associations,limits\nSelectType = select/cons_tres\n"
    "SLURM_VERSION = 23.11.4\nSelectTypeParameters = CR_CORE_MEMORY\n",
    "nodes": "NodeName=g1 CPUTot=64 RealMemory=512000 Gres=gpu:a100:4,gpu:1g.10gb:7 Partitions=gpu,long\n"
    "NodeName=c1 CPUTot=128 RealMemory=256000 Gres=(null) Partitions=cpu\n",
    "partitions": "PartitionName=down Default=YES State=DOWN\n"
    "PartitionName=gpu State=UP MaxTime=2-00:00:00 AllowAccounts=lab,ops AllowQos=normal\n"
    "PartitionName=cpu State=UP MaxTime=UNLIMITED MaxMemPerCPU=2000 AllowAccounts=others\n",
    "sacct": "", "sacctmgr": "guest\nlab\n", "srun": "MPI plugins are...\n\tnone\n\tpmix\nspecific pmix: pmix_v4\n",
}  # fmt: skip
OLD = {
    "config": "ClusterName = old\nSelectType = select/cons_res\nSLURM_VERSION = 18.08.9\nMaxArraySize = 1\n"
    "MinJobAge = 300 sec\n",
    "nodes": "NodeName=n1 CPUTot=8 RealMemory=1 Gres=gpu:2 Partitions=batch\n",
    "partitions": "PartitionName=batch Default=YES State=UP MaxTime=60\n",
    "sacct": UserError("sacct: Slurm accounting storage is disabled"),
    "sacctmgr": UserError("sacctmgr: not allowed"), "srun": UserError("no Slurm here: srun is not on PATH"),
}  # fmt: skip
CLOUD = {
    "config": "ClusterName = cloud\n", "nodes": "NodeName=s1 CPUTot=8 RealMemory=9000 Partitions=queue\n",
    "partitions": "PartitionName=queue Default=YES State=UP MaxTime=60 MaxCPUsPerNode=4 TotalNodes=9\n",
}  # fmt: skip
MUTE = {"config": "MaxArraySize = 1001\n"}


def site_that_says(said: dict[str, str | UserError]) -> Ask:
    def ask(command: list[str]) -> str:
        words = said.get(command[-1] if command[0] == "scontrol" else command[0], UserError(f"{command[0]}: no"))
        if isinstance(words, UserError):
            raise words
        return words

    return ask


@pytest.mark.parametrize(
    ("said", "lines", "bad"),
    [
        (GPUS, {
            "Slurm": "23.11.4, cluster big",
            "partition gpu": "1 nodes; up to 2880 min; nodes of 64 CPUs, 512000 MiB; "
            "GPUs: 1g.10gb (7 on a node), a100 (4 on a node) -> for accounts lab, ops only; needs qos: normal",
            "partition down (default)": "0 nodes; no time limit -> is DOWN: nothing starts there",
            "memory": "CR_CORE_MEMORY -> a task with more than 2000 MiB for each of its CPUs is given more CPUs",
            "GPUs": "1g.10gb, a100 -> gpu_type in the profile chooses one",
            "accounts": "guest, lab -> set account in the profile",
            "accounting": "sacct answers",
            "preemption": "preempt/qos, CANCEL; JobRequeue ? -> a preempted task saves and ends; rnet sweep retry",
            "MPI types of srun": "none, pmix -> rnet needs none",
        }, []),
        (OLD, {
            "partition batch (default)": "1 nodes; up to 60 min; nodes of 8 CPUs, 1 MiB; GPUs: no type (2 on a node)",
            "memory": "nodes do not say how much they have -> write memory_option: none",
            "GPUs": "no type -> write gpu_option: gres; this Slurm has no --gpus-per-task",
            "accounting": "none is kept -> rnet goes on with squeue and its own files; how a killed task ended is "
            "known for 300 sec",
        }, ["arrays"]),
        (CLOUD, {
            "partition queue (default)": "of 9 nodes 1 shown; up to 60 min; nodes of 8 CPUs, 9000 MiB; at most 4 CPUs "
            "of a node -> what its nodes have is not checked before sbatch",
            "GPUs": "none told -> nodes that are not shown may have some",
        }, []),
        (MUTE, {"partitions": "not told -> requests are not checked", "accounting": "sacct: no -> rnet goes on"}, []),
    ],
    ids=["gpus", "old", "cloud", "mute"],
)  # fmt: skip
def test_each_line_says_what_was_found_and_what_it_means(
    said: dict[str, str | UserError], lines: dict[str, str], bad: list[str]
) -> None:
    found = findings_of(read_site(site_that_says(said)))
    shown = {one.about: one.found + (f" -> {one.means}" if one.means else "") for one in found}
    assert len(shown) == len(found)
    for about, words in lines.items():
        assert shown[about].startswith(words)
    assert [one.about for one in found if one.bad] == bad


@pytest.mark.parametrize(
    ("said", "profile"),
    [
        (GPUS, {"partition": "gpu", "account": "lab", "qos": "normal"}),
        (OLD, {"partition": "batch", "gpu_option": "gres", "memory_option": "none"}),
        (MUTE, {}),
    ],
    ids=["gpus", "old", "mute"],
)
def test_the_profile_that_it_writes_is_read_again_and_never_overwritten(
    said: dict[str, str | UserError], profile: dict[str, str], tmp_path: Path
) -> None:
    site, path = read_site(site_that_says(said)), tmp_path / "cluster" / "mine.yaml"
    write_profile(site, path)
    assert yaml.safe_load(path.read_text()) == {"kind": "slurm"} | profile
    make_cluster(load_profile("mine", [tmp_path]), "mine")
    commented = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ") and ": " in line]
    known = [line for line in commented if line.split(":")[0].isidentifier()]
    assert len(known) >= 5  # whoever takes out the # has a profile, too
    for line in known:
        make_cluster({"kind": "slurm"} | yaml.safe_load(line), "mine")
    with pytest.raises(UserError, match="not overwritten"):
        write_profile(site, path)


@pytest.mark.parametrize("name", ["mine.yaml", "cluster/mine.yml", "cluster/x/mine.yaml", "cluster/.yaml"])
def test_a_profile_that_rnet_would_not_find_is_not_written(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(sweep_app, ["doctor", "--write", str(tmp_path / name)])
    assert result.exit_code == 2
    assert "DIR/cluster/NAME.yaml" in result.stderr
    assert not list(tmp_path.iterdir())


def test_where_there_is_no_slurm_it_says_so_and_what_this_machine_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(sweep_app, ["doctor", "--root", str(tmp_path / "no" / "store"), "--json"])
    found = {one["about"]: one for one in json.loads(result.stdout)}
    assert result.exit_code == 1
    assert found["Slurm"]["found"] == "none on this machine"
    assert "cluster=local" in found["Slurm"]["means"]
    assert found["store: hard link"]["found"] == "works"
    assert not list(tmp_path.iterdir())
    path = tmp_path / "cluster" / "mine.yaml"
    result = CliRunner().invoke(sweep_app, ["doctor", "--root", str(tmp_path), "--write", str(path)])
    assert result.exit_code == 2
    assert "no Slurm answers here" in result.stderr
    assert not path.exists()


def test_a_folder_without_hard_links_or_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    bad = {one.about: one.found for one in folder_findings(tmp_path) if one.bad}
    assert bad == {"store: hard link": "Operation not permitted", "store: flock": "it has no effect"}
    assert not list(tmp_path.iterdir())
