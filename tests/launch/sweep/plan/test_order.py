"""Which rows and cells come first: one of each kind, with what they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.sweep.clusters.arrays import make_arrays
from launch.sweep.plan.order import cells_of_first, early_first
from rnet.errors import UserError
from tests.launch.sweep.sweeps import TINY, tiny_plan

AXES = {
    "dataset": ["digits", "fashion_mnist"],
    "model": ["resnet8", "resnet20", "vit_tiny"],
    "attack": ["identity", "finetune"],
    "defense": ["random"],
    "seed": [0, 1],
}


def _rows(**axes: str) -> list[dict[str, str]]:
    count = len(next(iter(axes.values())))
    return [{axis: values[number] for axis, values in axes.items()} for number in range(count)]


@pytest.mark.parametrize(
    ("rows", "order", "early"),
    [
        (_rows(a="0011", b="0101"), [0, 3, 1, 2], 2),  # the diagonal
        (_rows(a="000111", b="012012"), [0, 4, 2, 1, 3, 5], 3),
        (_rows(a="001", b="011"), [0, 2, 1], 2),  # not a product
        (_rows(a="0000", seed="0123"), [0, 1, 2, 3], 1),  # seeds wait
        (_rows(attack="0101", **{"attack.seed": "0011"}), [0, 1, 2, 3], 2),
        (_rows(a="012"), [0, 1, 2], 3),
        (_rows(a="0"), [0], 1),
    ],
)
def test_rows_that_show_each_value_once_go_first(rows: list[dict[str, str]], order: list[int], early: int) -> None:
    assert early_first(rows) == (order, early)


def test_the_early_cells_hold_every_value_and_come_before_negatives_and_seeds(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, axes=AXES, cases=TINY["cases"][:1], set=[*TINY["set"], "negatives=2"])
    assert [list(row.values.values()) for row in plan.rows[:2]] == [
        ["digits", "resnet8", "identity", "random", "0"],
        ["digits", "resnet8", "identity", "random", "1"],
    ]  # the table keeps the file's order
    early = [row for row in plan.rows if max(row.cells.values()) < plan.early]
    for axis in ("dataset", "model", "attack"):
        assert {row.values[axis] for row in early} == set(AXES[axis])
    assert {row.values["seed"] for row in early} == {"0"}
    assert plan.early == 4 * 3  # three rows of four stages
    assert all(parent < index for index, cell in enumerate(plan.cells) for parent in cell.parents)


def test_early_cells_have_arrays_of_their_own_before_all_others(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, axes=AXES, cases=TINY["cases"][:1])
    arrays = make_arrays(plan, range(len(plan.cells)), max_size=1000, max_arrays=20)
    assert [array.stage for array in arrays[:4]] == ["train", "attack", "fingerprint", "verify"]
    assert {index for array in arrays[:4] for task in array.tasks for index in task} == {*range(plan.early)}
    assert len(make_arrays(plan, range(len(plan.cells)), max_size=1000, max_arrays=4)) == 4
    later = make_arrays(plan, range(plan.early, len(plan.cells)), max_size=1000, max_arrays=4)
    assert {index for array in later for task in array.tasks for index in task} == {*range(plan.early, len(plan.cells))}


def test_the_cells_of_the_first_rows_hold_all_that_these_need(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, axes=AXES, cases=TINY["cases"][:1], set=[*TINY["set"], "negatives=1"])
    order, _ = early_first([row.values for row in plan.rows])
    found = cells_of_first(plan, 2)
    rows = [plan.rows[number] for number in order[:2]]
    assert {*rows[0].cells.values(), *rows[1].cells.values(), *rows[0].negatives, *rows[1].negatives} <= found
    assert all(parent in found for index in found for parent in plan.cells[index].parents)
    assert len(found) == 2 * 6  # two victims, each with a suspect and a negative, and their tests
    assert cells_of_first(plan, 10**9) == set(range(len(plan.cells)))
    with pytest.raises(UserError, match="1 or more"):
        cells_of_first(plan, 0)
