"""Sweeps for tests: the smallest runs, plans and records of them without any cost, and a cluster that runs nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from launch.sweep.clusters.arrays import After, Array, make_arrays
from launch.sweep.clusters.base import Cluster, Full
from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.plan import Plan
from launch.sweep.records import submissions
from launch.sweep.records.attempts import Worker, claim
from launch.sweep.records.submissions import Submission, new_submission
from rnet.errors import UserError
from rnet.storage.manifest import write_manifest

HERE, GONE = f"{platform.node()}:{os.getpid()}", f"{platform.node()}:{2**22 + 1}"
"""Jobs of cluster=local: this process, and one above the largest process id."""

TINY: dict[str, Any] = {
    "name": "tiny",
    "set": [
        "dataset.image_size=8", "dataset.train_size=200", "dataset.test_size=120", "dataset.substitute_pool=64",
        "model.width=4", "train.epochs=2", "train.batch_size=50", "engine.device=cpu", "engine.eval_every=10",
        "engine.log_every=2",
    ],
    "axes": {
        "dataset": ["digits"],
        "model": ["resnet8"],
        "attack": ["identity", "finetune"],
        "defense": ["ipguard", "random"],
        "seed": [0],
    },
    "cases": [
        {
            "when": {"attack": "finetune"},
            "set": ["attack.substitute_size=48", "attack.iterations=4", "attack.batch_size=16"],
        },
        {"when": {"defense": "ipguard"}, "set": ["defense.num_queries=8", "defense.steps=20"]},
    ],
}  # fmt: skip


def write_sweep(folder: Path, **changes: Any) -> Path:
    """The tiny sweep in a file, with keys replaced; None takes a key out."""
    document = {key: value for key, value in (TINY | changes).items() if value is not None}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def tiny_plan(folder: Path, *overrides: str, **changes: Any) -> Plan:
    """The tiny sweep's plan."""
    return make_plan(write_sweep(folder, **changes), overrides)


def finish(root: Path, label: str, result: str = "{}") -> None:
    """Puts a result into the store, as if the cell had been computed."""
    folder = root / label
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("{}\n")
    write_manifest(folder, {"result.json": result.encode()})
    (folder / "result.json").write_text(result)


def submitted(
    root: Path, plan: Plan, cells: Sequence[int] | None = None, *, job: str = HERE, dead: dict[str, int] | None = None,
    snapshot: str | None = None,
) -> Submission:  # fmt: skip
    """A record of these cells of the plan, or of all, each a task of the job."""
    tasks = [[index] for index in (range(len(plan.cells)) if cells is None else cells)]
    record = new_submission(plan, "cells", tasks, dead or {}, snapshot)
    record.job, record.state = job, "submitted"
    submissions.save(root, record)
    return record


def started(
    root: Path, plan: Plan, index: int, record: Submission, end: str | None = None, *, task: str | None = None,
    **extra: Any,
) -> None:  # fmt: skip
    """An attempt of a cell, of that submission; end: how it has ended. task: the scheduler's id of its task."""
    cell = plan.cells[index]
    attempt = claim(root, cell.stage, cell.id, Worker(token=record.token, job=task, snapshot=record.snapshot))
    assert attempt is not None
    if end is not None:
        attempt.finish(end, **extra)


@dataclass(frozen=True, kw_only=True)
class Queue(Cluster):
    """A queue with room for some tasks, of which none ever runs."""

    hint_seconds = 0.0
    room: ClassVar[int] = 0
    """Less than nothing: no node could run a task."""
    queue: ClassVar[dict[str, int]] = {}
    """The tasks of each job."""

    def arrays(self, plan: Plan, wanted: Collection[int], *, ask: bool = True) -> list[Array]:
        return make_arrays(plan, wanted, max_size=100, max_arrays=20)

    def check(self, arrays: Sequence[Array]) -> None:
        if Queue.room < 0:
            raise UserError(f"{arrays[-1].stage}: resources.cpus=9 is more than any node has")

    def start(self, root: Path, submission: Submission, array: Array, after: After) -> str:
        if len(array.tasks) > Queue.room - sum(Queue.queue.values()):
            raise Full("sbatch: QOSMaxSubmitJobPerUserLimit")
        Queue.queue[str(len(Queue.queue))] = len(array.tasks)
        return str(len(Queue.queue) - 1)

    def states(self, submissions: Sequence[Submission]) -> dict[str, str]:
        return {task: "pending" for submission in submissions for task in submission.task_ids}

    def cancel(self, ids: Sequence[str]) -> None:
        raise AssertionError("nothing is to be cancelled")


def queued_plan(folder: Path, monkeypatch: pytest.MonkeyPatch, *, room: int, **changes: Any) -> Plan:
    """The tiny sweep's plan for a Queue that is empty."""
    monkeypatch.setattr(Queue, "queue", {})
    monkeypatch.setattr(Queue, "room", room)
    (folder / "cluster").mkdir()
    (folder / "cluster" / "queue.yaml").write_text(f"kind: {__name__}:Queue\n")
    return make_plan(write_sweep(folder, cluster="queue", **changes), config_dir=folder)
