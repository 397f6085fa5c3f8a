"""Trying a sweep: its first rows are submitted with all that they need, and the rest later, each cell once."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.sweep.plan.plan import Plan
from launch.sweep.records.submissions import read_all
from launch.sweep.states import StoreState
from launch.sweep.submit import submit
from rnet.errors import UserError
from tests.launch.sweep.sweeps import TINY, finish, queued_plan


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    changed = {"axes": TINY["axes"] | {"seed": [0, 1]}, "set": [*TINY["set"], "negatives=1"]}
    return queued_plan(tmp_path, monkeypatch, room=1000, **changed)


def test_a_sweep_that_was_tried_is_continued_and_nothing_is_computed_twice(plan: Plan, tmp_path: Path) -> None:
    root = tmp_path / "store"
    tried = submit(plan, root, limit=1)
    assert (tried.cells, tried.later) == (6, len(plan.cells) - 6)  # a row and its negative
    (record, *_) = read_all(root)
    assert record.tasks == [[plan.cells[0].label]]
    assert submit(plan, root, limit=1).elsewhere == 6
    for label in record.cells:
        finish(root, label)
    rest = submit(plan, root)
    assert (rest.cells, rest.done, rest.elsewhere, rest.later) == (len(plan.cells) - 6, 1, 5, 0)
    handed_out = [label for one in read_all(root) for labels in one.tasks for label in labels]
    assert sorted(handed_out) == sorted(cell.label for cell in plan.cells)
    assert {cell.state for cell in StoreState(plan, root).cells} == {"done", "pending"}


def test_a_limit_of_nothing_is_refused_before_anything_is_written(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--limit 0"):
        submit(plan, tmp_path / "store", limit=0)
    assert not (tmp_path / "store").exists()
