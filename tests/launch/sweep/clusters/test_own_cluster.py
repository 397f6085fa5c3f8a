"""A cluster of a kind that rnet does not bring: one class in one file, and submit, status, retry and cancel work."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from launch.sweep.cli import sweep_app
from launch.sweep.clusters.base import make_cluster
from launch.sweep.clusters.mpi import Mpi
from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.plan import Plan
from launch.sweep.records import submissions
from launch.sweep.states import StoreState
from launch.sweep.submit import cancel, submit
from rnet.errors import UserError
from tests.launch.sweep.sweeps import finish, write_sweep

KIND = "tests.launch.sweep.clusters.stub_pbs:Pbs"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the user's own profile."""
    (tmp_path / "site" / "cluster").mkdir(parents=True)
    (tmp_path / "spool").mkdir()
    profile = {"kind": KIND, "spool": str(tmp_path / "spool")}
    (tmp_path / "site" / "cluster" / "pbs.yaml").write_text(yaml.safe_dump(profile))
    return tmp_path / "site"


def small_plan(site: Path, **changes: Any) -> Plan:
    axes = {"attack": ["identity"], "defense": ["random"]}
    path = write_sweep(site, **({"axes": axes, "cases": None, "cluster": "pbs"} | changes))
    return make_plan(path, config_dir=site)


def rnet_sweep(*arguments: object) -> str:
    result = CliRunner().invoke(sweep_app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_a_sweep_runs_on_a_scheduler_from_outside_the_tree(site: Path, tmp_path: Path) -> None:
    plan, root = small_plan(site), tmp_path / "store"
    file, options = site / "tiny.yaml", ["--root", root]
    assert "#PBS -J 0-0" in rnet_sweep("plan", file, "--config-dir", site, *options)
    out = rnet_sweep("submit", file, "--config-dir", site, "--wait", *options)
    assert "submitted 4 cells in 4 arrays: 0[].server_1 1[].server_1" in out
    found = json.loads(rnet_sweep("status", file, "--json", *options))
    assert found["done"]
    assert {cell.attempt for cell in StoreState(plan, root).cells} == {1}
    assert "4 cells done already" in rnet_sweep("submit", file, "--config-dir", site, *options)
    (snapshot,) = (root / "snapshots").iterdir()
    status = json.loads(next((root / "attempts" / "verify").iterdir()).read_text())
    assert (status["job"], status["snapshot"]) == ("3[].server_1_0", snapshot.name)


@pytest.mark.slow
def test_retry_starts_there_what_failed_and_was_blocked(site: Path, tmp_path: Path) -> None:
    plan, root = small_plan(site), tmp_path / "store"
    for cell in plan.cells[:2]:
        finish(root, cell.label, result="damaged")
    submit(plan, root, wait=True)
    assert [cell.state for cell in StoreState(plan, root).cells] == ["done", "done", "failed", "blocked"]
    retried = submit(plan, root, retry=True, wait=True)
    assert (retried.cells, retried.done) == (2, 2)
    assert [cell.attempt for cell in StoreState(plan, root).cells] == [0, 0, 2, 2]


@pytest.mark.slow
def test_cancel_stops_its_tasks_and_leaves_what_is_saved(site: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    plan = small_plan(site, until="train", axes={"seed": [0]},
                      set=["train.epochs=3000", "model.width=4", "engine.device=cpu"])  # fmt: skip
    submit(plan, root)
    waiting = threading.Event()
    for _ in range(600):
        state = StoreState(plan, root, fresh=True)
        if state.cells[0].state == "running" and list((root / "train").rglob("log.jsonl")):
            break
        waiting.wait(0.1)
    assert (state.cells[0].state, state.cells[0].alive) == ("running", True)
    assert len(cancel(plan, root).jobs) == 1
    for _ in range(600):
        if list((root / "train").rglob("step-*.pt")):
            break
        waiting.wait(0.1)
    assert list((root / "train").rglob("step-*.pt")), "it saved before it stopped"
    assert StoreState(plan, root, fresh=True).cells[0].state == "not submitted"


def test_a_job_whose_submitter_died_is_found_by_its_name_or_void(site: Path, tmp_path: Path) -> None:
    plan, root = small_plan(site), tmp_path / "store"
    known, unknown = (submissions.new_submission(plan, "train", [[0]], {}, None) for _ in range(2))
    for record in (known, unknown):
        submissions.save(root, record)
    document = {"name": known.name, "states": ["done"], "pid": 0}
    (tmp_path / "spool" / "0[].server_1.json").write_text(json.dumps(document))
    for cell in plan.cells:
        finish(root, cell.label)
    assert submit(plan, root).recovered == ["0[].server_1"]
    states = {record.token: record.state for record in submissions.read_all(root)}
    assert states == {known.token: "submitted", unknown.token: "void"}


def test_a_scheduler_that_is_gone_is_told_and_the_others_are_asked(site: Path, tmp_path: Path) -> None:
    plan, root = small_plan(site), tmp_path / "store"
    for number, kind in enumerate(("gone.away:Cluster", KIND)):
        record = submissions.new_submission(plan, "train", [[number]], {}, None)
        record.profile = {**record.profile, "kind": kind}
        record.job, record.state = f"{number}", "submitted"
        submissions.save(root, record)
    (tmp_path / "spool" / "1.json").write_text(json.dumps({"name": "", "states": ["timed out"]}))
    state = StoreState(plan, root)
    assert "gone.away" in state.trouble
    assert [cell.state for cell in state.cells[:2]] == ["pending", "timed out"]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"kind": "slrum"}, ["kind='slrum'", "slurm", "package.module:Class"]),
        ({"kind": ":Mine"}, ["kind=':Mine' cannot be imported", "Empty module name", "PYTHONPATH"]),
        ({"kind": ".clusters:Mine"}, ["kind='.clusters:Mine' cannot be imported", "PYTHONPATH"]),
        ({"kind": "nowhere.pbs:Pbs"}, ["nowhere", "PYTHONPATH"]),
        ({"kind": "json:Pbs"}, ["json:Pbs", "PYTHONPATH"]),
        ({"kind": "json:JSONDecoder"}, ["json:JSONDecoder", "Cluster"]),
        ({"kind": "slurm", "partion": "gpu"}, ["'partion'", "partition"]),
        ({"kind": "slurm", "max_parallel": 0}, ["max_parallel=0"]),
        ({"kind": "local", "partition": "gpu"}, ["'partition'", "workers"]),
        ({"kind": "local", "workers": "two"}, ["workers='two'", "whole number"]),
        ({"kind": KIND, "queue": "q"}, ["'queue'", "spool"]),
        ({"kind": KIND}, ["spool"]),
    ],
)
def test_a_profile_that_cannot_work_is_refused_with_its_name(profile: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        make_cluster(profile, "mine")
    for word in ("cluster/mine.yaml", *words):
        assert word in str(caught.value)


def test_the_profiles_that_come_with_rnet_have_a_cluster() -> None:
    assert make_cluster({"kind": "mpi", "workers": 3}, "mine") == Mpi(kind="mpi", workers=3)
    for path in sorted((Path(__file__).resolve().parents[4] / "configs" / "cluster").glob("*.yaml")):
        make_cluster(yaml.safe_load(path.read_text()), path.stem)
