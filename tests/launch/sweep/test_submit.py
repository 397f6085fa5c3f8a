"""Handing out to a cluster that takes few tasks at a time, or could never run some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.sweep.records import submissions
from launch.sweep.states import StoreState
from launch.sweep.submit import submit
from rnet.errors import UserError
from tests.launch.sweep.sweeps import Queue, finish, queued_plan

EIGHT: dict[str, Any] = {"until": "train", "axes": {"seed": list(range(8))}, "cases": None}


def test_what_a_full_cluster_took_stays_and_submit_hands_out_the_rest_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, root = queued_plan(tmp_path, monkeypatch, room=3, **EIGHT), tmp_path / "store"
    with pytest.raises(
        UserError, match=r"train .*QOSMaxSubmit.*; 3 of 8 cells are submitted and stay so, submit again"
    ):
        submit(plan, root)
    assert sum(Queue.queue.values()) == 3
    assert [cell.state for cell in StoreState(plan, root).cells] == ["pending"] * 3 + ["not submitted"] * 5
    for cell in plan.cells[:3]:
        finish(root, cell.label)
    Queue.queue.update(dict.fromkeys(Queue.queue, 0))
    monkeypatch.setattr(Queue, "room", 8)
    again = submit(plan, root)
    assert (again.cells, again.done, sum(Queue.queue.values())) == (5, 3, 5)
    assert {record.state for record in submissions.read_all(root)} == {"submitted", "void"}


def test_a_request_that_no_node_satisfies_is_refused_before_the_first_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, root = queued_plan(tmp_path, monkeypatch, room=-1, **EIGHT), tmp_path / "store"
    with pytest.raises(UserError, match=r"^train: resources.cpus=9 is more than any node has"):
        submit(plan, root)
    assert not submissions.read_all(root)
    assert not (root / "snapshots").exists()
