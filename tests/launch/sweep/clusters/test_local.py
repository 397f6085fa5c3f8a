"""Sweeps on one machine: the order of the graph, real cells in processes of their own, and the same bits over MPI."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.sweep.cli import sweep_app
from launch.sweep.clusters import pool
from launch.sweep.clusters.local import visible_gpus
from launch.sweep.clusters.pool import Stop, coming, run_graph
from launch.sweep.records import submissions
from launch.sweep.records.submissions import new_submission
from launch.sweep.states import StoreState
from launch.sweep.submit import Stopped, cancel, submit
from rnet.report.rows import FIDELITY
from tests.launch.sweep.clusters.test_arrays import graph
from tests.launch.sweep.sweeps import GONE, HERE, finish, started, submitted, tiny_plan, write_sweep

ROOT = Path(__file__).resolve().parents[4]


class NeverStop(Stop):
    """Leaves the signals alone."""

    def __init__(self) -> None:
        self.asked = False


def test_children_start_after_their_parents_and_no_more_than_allowed_at_once() -> None:
    plan = graph(3, 3, 2)
    record = new_submission(plan, "cells", [[place] for place in range(len(plan.cells))], {}, None)
    ended: set[int] = set()
    lock, running, most = threading.Lock(), 0, 0

    def run(number: int) -> int:
        nonlocal running, most
        with lock:
            assert ended.issuperset(plan.cells[number].parents)
            running += 1
            most = max(most, running)
        threading.Event().wait(0.005)
        with lock:
            running -= 1
            ended.add(number)
        if number % 5 == 0:
            raise RuntimeError("a worker that dies does not stop the others")
        return 0

    with ThreadPoolExecutor(8) as threads:
        run_graph(record, 4, lambda number: threads.submit(run, number), NeverStop())
    assert ended == set(range(len(plan.cells)))
    assert 1 < most <= 4


def test_the_first_tasks_of_a_submission_are_started_first() -> None:
    plan = graph(4, 2, 2)
    record = new_submission(plan, "cells", [[place] for place in range(len(plan.cells))], {}, None)
    started: list[int] = []
    with ThreadPoolExecutor(1) as threads:
        run_graph(record, 1, lambda number: threads.submit(lambda: started.append(number) or 0), NeverStop())
    assert started == list(range(len(plan.cells)))


@pytest.mark.parametrize("end", ["result", "failed", "gone", "silent"])
def test_a_parent_that_another_submission_computes_is_waited_for(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.01)
    plan = graph(2, 1, 1)
    first, *others = range(len(plan.cells))
    known = submitted(tmp_path, plan, [first], job="elsewhere:1" if end == "silent" else HERE)
    record = new_submission(plan, "cells", [[index] for index in others], {}, None)
    submissions.save(tmp_path, record)
    looks, begun = 0, []

    def look(labels: Collection[str]) -> set[str]:
        nonlocal looks
        looks += 1
        if looks == 3 and end != "failed":
            started(tmp_path, plan, first, known)
        if looks == 5:
            assert not {others[number] for number in begun} & children
            if end == "result":
                finish(tmp_path, plan.cells[first].label)
            elif end == "failed":
                started(tmp_path, plan, first, known, "failed", error="x")
            elif end == "silent":
                monkeypatch.setattr(pool, "SILENT_SECONDS", 0.0)
            else:
                known.job = GONE
                submissions.save(tmp_path, known)
        return coming(tmp_path, record.token, labels)

    children = {index for index in others if first in plan.cells[index].parents}
    with ThreadPoolExecutor(1) as threads:
        run_graph(record, 2, lambda number: threads.submit(lambda: begun.append(number) or 0), NeverStop(), look)
    assert looks == 5
    assert sorted(begun) == list(range(len(others)))


def test_nothing_new_starts_after_a_stop() -> None:
    plan = graph(4, 2, 2)
    record = new_submission(plan, "cells", [[place] for place in range(len(plan.cells))], {}, None)
    stop, started = NeverStop(), []

    def run(number: int) -> int:
        started.append(number)
        stop.asked = True
        return 0

    with ThreadPoolExecutor(1) as threads:
        run_graph(record, 1, lambda number: threads.submit(run, number), stop)
    assert len(started) == 1


@pytest.mark.parametrize(
    ("visible", "files", "names"),
    [
        (None, 2, ["0", "1"]),
        ("3,1", 4, ["3", "1"]),
        ("MIG-a1b2,MIG-c3d4, MIG-e5", 1, ["MIG-a1b2", "MIG-c3d4", "MIG-e5"]),
        ("GPU-8932f937", 8, ["GPU-8932f937"]),
        ("", 2, []),
        ("-1", 2, []),
        ("0,-1,1", 2, ["0"]),
        ("0", 0, []),
    ],
)
def test_gpus_and_slices_keep_the_names_that_the_scheduler_gave_them(
    visible: str | None, files: int, names: list[str], tmp_path: Path
) -> None:
    for number in range(files):
        (tmp_path / f"nvidia{number}").touch()
    (tmp_path / "nvidiactl").touch()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert visible_gpus(environment, tmp_path) == names


@pytest.mark.slow
def test_code_that_changes_after_the_submission_is_not_run(tmp_path: Path) -> None:
    """Submits from a copy of the code, whose stages are broken the moment after; a plugin there is still found."""
    tree, root = tmp_path / "tree", tmp_path / "store"
    for part in ("rnet", "launch", "configs"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    write_sweep(tmp_path, until="train", axes={"seed": [0]}, cases=None)
    submitting = (
        "import sys; from pathlib import Path\n"
        "from launch.sweep.clusters.local import Local\n"
        "from launch.sweep.plan.expand import make_plan\n"
        "from launch.sweep.submit import submit\n"
        "start = Local.start\n"
        "def late(*arguments):\n"
        "    Path('rnet/stages/stages.py').write_text('raise RuntimeError(1)')\n"
        "    Path('launch/sweep/clusters/local.py').write_text('raise RuntimeError(2)')\n"
        "    return start(*arguments)\n"
        "Local.start = late\n"
        "submit(make_plan(Path(sys.argv[1])), Path(sys.argv[2]), wait=True)\n"
    )
    command = [sys.executable, "-c", submitting, str(tmp_path / "tiny.yaml"), str(root)]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (status,) = [json.loads(path.read_text()) for path in (root / "attempts" / "train").iterdir()]
    assert status["state"] == "done", status
    assert "RuntimeError(1)" not in (root / "snapshots" / status["snapshot"] / "rnet/stages/stages.py").read_text()


@pytest.mark.slow
def test_a_sweep_on_this_machine_ends_with_a_complete_table_and_repeats_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    path = write_sweep(tmp_path, axes={"attack": ["identity"], "defense": ["ipguard", "random"]}, cases=[
        {"when": {"defense": "ipguard"}, "set": ["defense.num_queries=8", "defense.steps=20"]}
    ])  # fmt: skip
    runner = CliRunner()
    for _ in range(2):
        result = runner.invoke(sweep_app, ["submit", str(path), "--root", str(root), "--wait"])
        assert result.exit_code == 0, result.output
    assert "6 cells done already" in result.output
    attempts = Counter(path.name.split(".")[1] for path in (root / "attempts").rglob("*.json"))
    assert attempts == {"0001": 6}
    report = runner.invoke(sweep_app, ["report", str(path), "--root", str(root), "--format", "csv"])
    assert report.exit_code == 0
    lines = list(csv.DictReader(io.StringIO(report.stdout)))
    assert len(lines) == 2
    assert all(line[name] for line in lines for name in (*FIDELITY, "metric"))
    assert [float(line["score"]) for line in lines] == [1.0, 1.0]  # the victim itself


@pytest.mark.slow
def test_a_cell_that_fails_blocks_its_children_and_retry_starts_just_those(tmp_path: Path) -> None:
    root = tmp_path / "store"
    changes = {"axes": {"attack": ["identity"], "defense": ["random"]}, "cases": None}
    plan = tiny_plan(tmp_path, **changes)
    for cell in plan.cells[:2]:
        finish(root, cell.label, result="damaged")
    submit(plan, root, wait=True)
    state = StoreState(plan, root)
    assert [cell.state for cell in state.cells] == ["done", "done", "failed", "blocked"]
    assert "rnet store verify --fix" in state.cells[2].error
    again = submit(plan, root, wait=True)
    assert (again.cells, again.done, again.left) == (0, 2, 2)
    retried = submit(plan, root, retry=True, wait=True)
    assert (retried.cells, retried.done) == (2, 2)
    assert [cell.attempt for cell in StoreState(plan, root).cells] == [0, 0, 2, 2]


@pytest.mark.slow
def test_cancel_stops_what_runs_and_submit_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "store"
    plan = tiny_plan(tmp_path, "until=train", set=["train.epochs=3000", "model.width=4", "engine.device=cpu"],
                     axes={"seed": [0]}, cases=None)  # fmt: skip
    submit(plan, root)
    deadline = threading.Event()
    for _ in range(600):
        if StoreState(plan, root).cells[0].state == "running" and list((root / "train").rglob("log.jsonl")):
            break
        deadline.wait(0.1)
    stopped = cancel(plan, root)
    assert (stopped.cells, len(stopped.jobs)) == ({"running": 1}, 1)
    assert cancel(plan, root) == Stopped({}, []), "it is stopped already"
    for _ in range(600):
        if StoreState(plan, root).cells[0].state == "not submitted":
            break
        deadline.wait(0.1)
    state = StoreState(plan, root)
    assert (state.cells[0].state, state.cells[0].alive) == ("not submitted", False)
    assert list((root / "train").rglob("step-*.pt")), "it saved before it stopped"
    log = state.log_of(0)
    assert log is not None
    assert "step 0/" in log.read_text(), "what the cell's process prints is in a log of its own"


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
def test_mpi_ranks_fill_the_store_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    (tmp_path / "cluster").mkdir()
    profile = 'kind: mpi\nworkers: 2\nmpiexec: [mpiexec, --oversubscribe, -n, "{ranks}"]\n'
    (tmp_path / "cluster" / "two.yaml").write_text(profile)
    path = write_sweep(tmp_path, until="attack")
    runner = CliRunner()
    for cluster in ("local", "two"):
        options = ["--root", str(tmp_path / cluster), "--config-dir", str(tmp_path), "--wait"]
        result = runner.invoke(sweep_app, ["submit", str(path), f"cluster={cluster}", *options])
        assert result.exit_code == 0, result.output
    files = [_results(tmp_path / cluster) for cluster in ("local", "two")]
    assert len(files[0]) == 6
    assert files[0] == files[1]


def _results(root: Path) -> dict[str, bytes]:
    names = ("result.json", "model.safetensors", "config.yaml")
    found = [path for name in names for path in root.glob(f"*/*/{name}")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found if path.name != "config.yaml"}
