"""A worker and its cell: computed once, fenced, blocked, failed or stopped, and always with a word about it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.sweep.plan.plan import Plan
from launch.sweep.records.attempts import Worker, claim, latest_attempt, newest_attempts
from launch.sweep.work.cell import Job, run_cell
from rnet.config.run import RunConfig
from rnet.errors import UserError
from rnet.stages import stages
from rnet.stages.graph import document
from rnet.stages.store import StageFolder, Store
from rnet.training.signals import Preempted
from tests.launch.sweep.sweeps import tiny_plan

WORKER = Worker(token="t", job="7_1")
Compute = Callable[[StageFolder], dict[str, Any]]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return tiny_plan(tmp_path, axes={"attack": ["identity"]}, cases=None, until="attack")


def job(plan: Plan, stage: str) -> Job:
    cell = next(cell for cell in plan.cells if cell.stage == stage)
    parents = tuple(plan.cells[parent].label for parent in cell.parents)
    return Job(stage=stage, id=cell.id, configuration=plan.configuration(cell), parents=parents)


def changed(cell: Job, group: str, **settings: Any) -> Job:
    """The same cell, told to be computed from other settings."""
    configuration = {**cell.configuration, group: {**cell.configuration[group], **settings}}
    return Job(stage=cell.stage, id=cell.id, configuration=configuration)


def fake(monkeypatch: pytest.MonkeyPatch, compute: Compute) -> None:
    """Replaces the train stage by one that computes nothing but what is given."""

    def train(config: RunConfig, store: Store) -> StageFolder:
        return store.folder(document("train", config)).complete(compute)

    monkeypatch.setitem(stages.STAGES, "train", train)


def state(root: Path, cell: Job) -> dict[str, Any]:
    return latest_attempt(root, cell.stage, cell.id) or {}


def test_a_cell_is_computed_once(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fake(monkeypatch, lambda folder: {"calls": calls.append(folder.id)})
    cell = job(plan, "train")
    assert [run_cell(tmp_path, cell, WORKER) for _ in range(2)] == ["done", "done"]
    assert calls == [cell.id]
    assert newest_attempts(tmp_path, "train") == {cell.id: 1}
    assert state(tmp_path, cell)["state"] == "done"


def test_a_cell_without_its_parent_is_blocked_and_says_by_what(plan: Plan, tmp_path: Path) -> None:
    cell, parent = job(plan, "attack"), job(plan, "train")
    failed = claim(tmp_path, "train", parent.id, WORKER)
    assert failed is not None
    failed.finish("failed", error="too small")
    assert run_cell(tmp_path, cell, WORKER) == "blocked"
    assert f"{parent.label} has no result (failed)" in state(tmp_path, cell)["error"]
    assert not (tmp_path / cell.label).exists()


def test_a_users_mistake_and_a_crash_leave_their_last_words(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = job(plan, "train")

    def mistake(folder: StageFolder) -> dict[str, Any]:
        raise UserError("train.batch_size=50 is too small")

    fake(monkeypatch, mistake)
    assert run_cell(tmp_path, cell, WORKER) == "failed"
    assert state(tmp_path, cell)["error"] == "train.batch_size=50 is too small"

    def crash(folder: StageFolder) -> dict[str, Any]:
        raise ZeroDivisionError("by zero")

    fake(monkeypatch, crash)
    assert run_cell(tmp_path, cell, WORKER) == "failed"
    assert state(tmp_path, cell)["error"] == "ZeroDivisionError: by zero"
    assert "in crash" in state(tmp_path, cell)["traceback"]


def test_an_attempt_that_was_replaced_cannot_commit(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = job(plan, "train")

    def compute(folder: StageFolder) -> dict[str, Any]:
        assert claim(tmp_path, "train", cell.id, WORKER) is not None  # the requeued job starts while this one goes on
        return {}

    fake(monkeypatch, compute)
    assert run_cell(tmp_path, cell, WORKER) == "superseded"
    assert not (tmp_path / cell.label / "result.json").exists()
    assert state(tmp_path, cell)["attempt"] == 2


def test_an_attempt_that_was_replaced_stops_at_its_next_checkpoint(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = job(plan, "train")
    reached = []

    def compute(folder: StageFolder) -> dict[str, Any]:
        folder.write_status("running", step=1, total=9)
        claim(tmp_path, "train", cell.id, WORKER)
        folder.write_status("running", step=2, total=9)
        reached.append("after the checkpoint")
        return {}

    fake(monkeypatch, compute)
    assert run_cell(tmp_path, cell, WORKER) == "superseded"
    assert reached == []


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_outside_training_stops_the_cell_at_once(
    number: signal.Signals, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = job(plan, "train")

    def compute(folder: StageFolder) -> dict[str, Any]:
        os.kill(os.getpid(), number)
        threading.Event().wait(30)
        return {}

    fake(monkeypatch, compute)
    before = signal.getsignal(number)
    with pytest.raises(Preempted, match=number.name):
        run_cell(tmp_path, cell, WORKER)
    assert signal.getsignal(number) == before
    assert state(tmp_path, cell)["state"] == "preempted"


def test_a_signal_in_training_is_saved_first_and_the_next_incarnation_ends_with_the_same_bits(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = job(plan, "train")
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    assert run_cell(undisturbed, cell, WORKER) == "done"
    original = StageFolder.write_status

    def signalled(folder: StageFolder, status: str, **extra: Any) -> None:
        original(folder, status, **extra)
        if extra.get("step") == 3 and status == "running":
            os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(StageFolder, "write_status", signalled)
    slow = changed(cell, "engine", checkpoint_steps=3)
    with pytest.raises(Preempted):
        run_cell(disturbed, slow, WORKER)
    assert state(disturbed, cell)["state"] == "preempted"
    monkeypatch.setattr(StageFolder, "write_status", original)
    assert run_cell(disturbed, slow, Worker(token="t", job="7_1", restart=1)) == "done"
    for name in ("result.json", "model.safetensors"):
        assert (disturbed / cell.label / name).read_bytes() == (undisturbed / cell.label / name).read_bytes()


def test_a_cell_that_this_code_would_make_another_is_refused(plan: Plan, tmp_path: Path) -> None:
    cell = job(plan, "train")
    assert run_cell(tmp_path, changed(cell, "train", epochs=3), WORKER) == "failed"
    assert "submit again" in state(tmp_path, cell)["error"]
    assert not (tmp_path / "train" / cell.id).exists()


def test_a_cell_never_computes_its_parent(plan: Plan, tmp_path: Path) -> None:
    orphan = job(plan, "attack")
    assert run_cell(tmp_path, Job(stage="attack", id=orphan.id, configuration=orphan.configuration), WORKER) == "failed"
    assert "is needed and has no result" in state(tmp_path, orphan)["error"]
    assert not (tmp_path / "train").exists()


def test_a_finished_parent_is_enough(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, parent = job(plan, "attack"), job(plan, "train")
    with monkeypatch.context() as patch:
        fake(patch, lambda folder: {})
        assert run_cell(tmp_path, parent, WORKER) == "done"

    def attack(config: RunConfig, store: Store) -> StageFolder:
        assert store.folder(document("train", config)).result() == {}
        return store.folder(document("attack", config)).complete(lambda folder: {})

    monkeypatch.setitem(stages.STAGES, "attack", attack)
    assert run_cell(tmp_path, cell, WORKER) == "done"
