"""Two versions of a sweep: what comes, goes and stays, and which finished cells a change would compute again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.sweep.plan.compare import causes, compare
from launch.sweep.plan.plan import Plan
from tests.launch.sweep.sweeps import TINY, tiny_plan

FINETUNE: dict[str, Any] = TINY["cases"][0]
MORE_STEPS = [{**FINETUNE, "set": ["attack.substitute_size=48", "attack.iterations=6", "attack.batch_size=16"]}]


@pytest.mark.parametrize(
    ("changes", "rows", "cells", "again"),
    [
        ({}, (0, 0, 4), (0, 0, 9), []),
        ({"cluster": "dev", "resources": {"train": {"cpus": 2}}}, (0, 0, 4), (0, 0, 9), []),
        ({"axes": TINY["axes"] | {"seed": [0, 1]}}, (4, 0, 4), (9, 0, 9), []),
        ({"axes": TINY["axes"] | {"seed": [1]}}, (4, 4, 0), (9, 9, 0), []),
        ({"axes": TINY["axes"] | {"defense": ["ipguard"]}}, (0, 2, 2), (0, 3, 6), []),
        ({"cases": [*MORE_STEPS, TINY["cases"][1]]}, (0, 0, 4), (3, 3, 6),
         [("attack.iterations 4 -> 6", {"attack": 1, "verify": 2})]),
        ({"set": [*TINY["set"], "train.epochs=3"]}, (0, 0, 4), (9, 9, 0),
         [("train.epochs 2 -> 3", {"train": 1, "attack": 2, "fingerprint": 2, "verify": 4})]),
        ({"axes": TINY["axes"] | {"train.batch_size": [50, 40]}}, (8, 4, 0), (9, 0, 9), []),  # the old value is one
        ({"axes": TINY["axes"] | {"train.batch_size": [40]}}, (4, 4, 0), (9, 9, 0),
         [("train.batch_size 50 -> 40", {"train": 1, "attack": 2, "fingerprint": 2, "verify": 4})]),
    ],
)  # fmt: skip
def test_a_change_says_what_it_would_compute_again_and_why(
    changes: dict[str, Any], rows: tuple[int, ...], cells: tuple[int, ...], again: list[Any], tmp_path: Path
) -> None:
    old, new = tiny_plan(tmp_path), tiny_plan(tmp_path, **changes)
    found = compare(old, new, set(range(len(old.cells))))
    assert (len(found.rows_come), len(found.rows_go), found.rows_stay) == rows
    assert (len(found.cells_come), len(found.cells_go), len(found.cells_stay)) == cells
    assert causes(found, old) == again
    assert len(found.recomputed) + len(found.unused) == len(found.cells_go)


def test_only_finished_cells_would_be_computed_again(tmp_path: Path) -> None:
    old, new = tiny_plan(tmp_path), tiny_plan(tmp_path, cases=[*MORE_STEPS, TINY["cases"][1]])
    attack = next(row.cells["attack"] for row in old.rows if row.values["attack"] == "finetune")
    assert [one.old for one in compare(old, new, {0, attack}).recomputed] == [attack]
    assert new.cells[compare(old, new, {0, attack}).recomputed[0].new].stage == "attack"


def test_negatives_are_compared_too(tmp_path: Path) -> None:
    def plan(*lines: str) -> Plan:
        return tiny_plan(tmp_path, set=[*TINY["set"], "negatives=1", *lines])

    old = plan()
    found = compare(old, plan("train.epochs=3"), set(range(len(old.cells))))
    assert causes(found, old) == [
        ("train.epochs 2 -> 3", {"train": 1, "attack": 3, "fingerprint": 2, "verify": 6}),
    ]
