"""Names of cells: what differs in a sweep, nothing else, and never the same for two cells."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from launch.sweep.plan.names import cell_axes, cell_names, run_command
from launch.sweep.plan.plan import read_plan, save_plan
from tests.launch.sweep.sweeps import TINY, tiny_plan

WITH_NEGATIVES: dict[str, Any] = {"set": [*TINY["set"], "negatives=2"]}


def test_a_cell_is_named_by_the_axes_that_make_it(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, "axes.seed=[0,1]", "axes.model=[resnet8,resnet20]")
    row = next(r for r in plan.rows if list(r.values.values()) == ["digits", "resnet20", "finetune", "random", "1"])
    assert {stage: cell_names(plan)[index] for stage, index in row.cells.items()} == {
        "train": "train resnet20 seed=1",
        "attack": "attack finetune model=resnet20 seed=1",
        "fingerprint": "fingerprint random model=resnet20 seed=1",
        "verify": "verify random model=resnet20 attack=finetune seed=1",
    }
    assert cell_names(read_plan(save_plan(plan, tmp_path / "store"))) == cell_names(plan)


def test_negatives_are_named_by_what_makes_them_another_model(tmp_path: Path) -> None:
    plan = tiny_plan(
        tmp_path, "axes.defense=[random,dataset_inference]", "axes.attack=[identity]", cases=[], **WITH_NEGATIVES
    )
    names = set(cell_names(plan))
    assert {"attack independent attack.seed=1000", "verify random attack=independent attack.seed=1001"} <= names
    assert "attack independent attack.seed=1000 attack.portion=disjoint" in names


@pytest.mark.parametrize(
    "changes",
    [
        WITH_NEGATIVES,
        {"axes": TINY["axes"] | {"train.seed": [None, 3], "seed": [0, 3]}},  # rows that share cells
        {"axes": TINY["axes"] | {"train.weight_decay": [0.1, 0.2]}},
        {"cases": [{"when": {"defense": "random"}, "set": ["train.epochs=1"]}]},  # a setting that follows from others
        {"axes": {"attack": ["finetune"], "attack.substitute_size": [32, 48], "seed": [0, 1]},
         "cases": [{"when": {"attack.substitute_size": 32, "seed": 0}, "set": ["train.epochs=1"]},
                   {"when": {"attack.substitute_size": 48, "seed": 1}, "set": ["train.epochs=1"]}]},
    ],
)  # fmt: skip
def test_no_two_cells_have_the_same_name(changes: dict[str, Any], tmp_path: Path) -> None:
    names = cell_names(tiny_plan(tmp_path, **changes))
    assert len(set(names)) == len(names) > 4


def test_the_axes_of_a_cell_are_those_on_which_its_rows_agree(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, "axes.seed=[0,1]", **WITH_NEGATIVES)
    axes = cell_axes(plan)
    assert axes[plan.rows[0].cells["train"]] == {"dataset": "digits", "model": "resnet8", "seed": "0"}
    assert axes[plan.rows[0].negatives[0]] == {
        "dataset": "digits",
        "model": "resnet8",
        "defense": "ipguard",
        "seed": "0",
    }


def test_the_command_of_a_cell_can_be_pasted_whatever_its_paths_are(tmp_path: Path) -> None:
    cell = tiny_plan(tmp_path).cells[0]
    words = shlex.split(run_command(Path("my sweep's $HOME.yaml"), Path("/data/a b"), cell))
    assert words == ["rnet", "sweep", "run", "my sweep's $HOME.yaml", cell.label, "--root", "/data/a b"]
