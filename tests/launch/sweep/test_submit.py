"""Handing out to a cluster that takes few tasks at a time, or could never run some."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from launch.sweep.clusters.arrays import After, Array, make_arrays
from launch.sweep.clusters.base import Cluster, Full
from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.plan import Plan
from launch.sweep.records import submissions
from launch.sweep.records.submissions import Submission
from launch.sweep.states import StoreState
from launch.sweep.submit import submit
from rnet.errors import UserError
from tests.launch.sweep.sweeps import finish, tiny_plan


@dataclass(frozen=True, kw_only=True)
class Small(Cluster):
    """A queue with room for some tasks; nothing runs."""

    hint_seconds = 0.0
    room: ClassVar[int] = 0
    queue: ClassVar[dict[str, int]] = {}

    def arrays(self, plan: Plan, wanted: Collection[int], *, ask: bool = True) -> list[Array]:
        return make_arrays(plan, wanted, max_size=100, max_arrays=4)

    def check(self, arrays: Sequence[Array]) -> None:
        if Small.room < 0:
            raise UserError(f"{arrays[-1].stage}: resources.cpus=9 is more than any node has")

    def start(self, root: Path, submission: Submission, array: Array, after: After) -> str:
        if len(array.tasks) > Small.room - sum(Small.queue.values()):
            raise Full("sbatch: QOSMaxSubmitJobPerUserLimit")
        Small.queue[str(len(Small.queue))] = len(array.tasks)
        return str(len(Small.queue) - 1)

    def states(self, submissions: Sequence[Submission]) -> dict[str, str]:
        return {task: "pending" for submission in submissions for task in submission.task_ids}

    def cancel(self, ids: Sequence[str]) -> None:
        raise AssertionError("nothing is to be cancelled")


def plan_of_eight(tmp_path: Path) -> Plan:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "small.yaml").write_text(f"kind: {__name__}:Small\n")
    tiny_plan(tmp_path, until="train", axes={"seed": list(range(8))}, cases=None)
    return make_plan(tmp_path / "tiny.yaml", ["cluster=small"], config_dir=tmp_path)


def test_what_a_full_cluster_took_stays_and_submit_hands_out_the_rest_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, root = plan_of_eight(tmp_path), tmp_path / "store"
    monkeypatch.setattr(Small, "queue", {})
    monkeypatch.setattr(Small, "room", 3)
    with pytest.raises(
        UserError, match=r"train .*QOSMaxSubmit.*; 3 of 8 cells are submitted and stay so, submit again"
    ):
        submit(plan, root)
    assert sum(Small.queue.values()) == 3
    assert [cell.state for cell in StoreState(plan, root).cells] == ["pending"] * 3 + ["not submitted"] * 5
    for cell in plan.cells[:3]:
        finish(root, cell.label)
    Small.queue.update(dict.fromkeys(Small.queue, 0))
    monkeypatch.setattr(Small, "room", 8)
    again = submit(plan, root)
    assert (again.cells, again.done, sum(Small.queue.values())) == (5, 3, 5)
    assert {record.state for record in submissions.read_all(root)} == {"submitted", "void"}


def test_a_request_that_no_node_satisfies_is_refused_before_the_first_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, root = plan_of_eight(tmp_path), tmp_path / "store"
    monkeypatch.setattr(Small, "queue", {})
    monkeypatch.setattr(Small, "room", -1)
    with pytest.raises(UserError, match=r"^train: resources.cpus=9 is more than any node has"):
        submit(plan, root)
    assert not submissions.read_all(root)
    assert not (root / "snapshots").exists()
