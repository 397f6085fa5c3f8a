"""Sweep files: what they expand to, and one clear message for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.sweep.plan.spec import load_sweep
from rnet.config.run import load_config
from rnet.errors import UserError
from tests.launch.sweep.sweeps import write_sweep


def test_rows_are_the_product_of_the_axes_without_what_is_excluded(tmp_path: Path) -> None:
    path = write_sweep(
        tmp_path,
        axes={"dataset": ["digits", "lfw"], "attack": ["identity", "finetune"], "seed": [0, 1]},
        exclude=[{"dataset": "lfw", "attack": ["finetune"]}],
        cases=None,
    )
    rows = [tuple(row.values()) for row in load_sweep(path).rows()]
    expected = [
        (dataset, attack, seed)
        for dataset in ("digits", "lfw")
        for attack in ("identity", "finetune")
        for seed in ("0", "1")
        if not (dataset == "lfw" and attack == "finetune")
    ]
    assert rows == expected


def test_a_case_adds_its_overrides_and_resources_to_matching_rows_only(tmp_path: Path) -> None:
    case = {"when": {"attack": "finetune"}, "set": ["attack.iterations=4"], "resources": {"attack": {"gpus": 1}}}
    path = write_sweep(tmp_path, cases=[case], resources={"default": {"cpus": 2}, "verify": {"pack": 5}})
    sweep = load_sweep(path)
    rows = {row["attack"]: row for row in sweep.rows()}
    assert "attack.iterations=4" in sweep.overrides(rows["finetune"])
    assert "attack.iterations=4" not in sweep.overrides(rows["identity"])
    assert sweep.needs(rows["finetune"], "attack") == {"cpus": "2", "gpus": "1"}
    assert sweep.needs(rows["finetune"], "verify") == {"cpus": "2", "pack": "5"}
    assert sweep.needs(rows["identity"], "attack") == {"cpus": "2"}


TEXTS = [
    *("007", "1e3", "my birds", "birds (1)", "it's", "x=y", "\u00e9t\u00e9", "C:\\data", "a,b", "null", "true", "[a]"),
    *("~", "{a}", "${HOME}", "$HOME", "a: b", "a #b", " lead", "trail ", "-5", "1:30", "010", "@x", "!x", "'q'", '"'),
    "",
]


def test_text_in_an_axis_reaches_its_setting_as_it_stands(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, axes={"dataset": ["image_folder"], "dataset.folder": TEXTS}, cases=None, set=None)
    sweep = load_sweep(path)
    found = [load_config(sweep.overrides(row)).dataset.folder for row in sweep.rows()]
    assert found == [text or None for text in TEXTS]


def test_plain_text_null_and_numbers_in_a_file_are_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("axes: {dataset: [lfw], dataset.folder: [007, 1e3, 0x10, yes, null, 'null'], seed: [010]}\n")
    with pytest.raises(UserError, match="twice"):
        load_sweep(path)
    path.write_text("axes: {dataset: [lfw], dataset.folder: [007, 1e3, 0x10, yes, null], seed: [010]}\n")
    sweep = load_sweep(path)
    configs = [load_config(sweep.overrides(row)) for row in sweep.rows()]
    assert [config.dataset.folder for config in configs] == ["007", "1e3", "0x10", "yes", None]
    assert {config.seed for config in configs} == {10}


def test_the_command_line_changes_keys_of_the_file(tmp_path: Path) -> None:
    changes = ["cluster=slurm", "axes.seed=[4,5]", "axes.attack.seed=[7]", "resources.train.gpus=1", "until=attack"]
    sweep = load_sweep(write_sweep(tmp_path, cases=None), changes)
    assert (sweep.cluster, sweep.until) == ("slurm", "attack")
    assert sweep.axes["seed"] == ("4", "5")
    assert sweep.axes["attack.seed"] == ("7",)
    assert sweep.resources["train"] == {"gpus": "1"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axis": {}}, ["key='axis'", "axes"]),
        ({"axes": {"datset": ["digits"]}}, ["axis='datset'", "dataset"]),
        ({"axes": {"negatives": [1]}}, ["negatives", "set"]),
        ({"axes": {"seed": []}}, ["axes.seed", "empty"]),
        ({"axes": {"seed": [1, 1]}}, ["axes.seed", "twice"]),
        ({"axes": {"seed": [[1]]}}, ["axes.seed", "['1']"]),
        ({"axes": None}, ["axes"]),
        ({"exclude": [{"attack": "prune"}]}, ["exclude[0].attack='prune'", "finetune"]),
        ({"exclude": [{"precision": "bf16"}]}, ["exclude[0] axis='precision'"]),
        ({"exclude": [{}]}, ["exclude[0]", "no axis"]),
        ({"exclude": [{"seed": 0}]}, ["no rows"]),
        ({"cases": [{"when": {"seed": 0}, "sets": []}]}, ["cases[0] key='sets'", "set"]),
        ({"resources": {"training": {}}}, ["training", "train"]),
        ({"set": ["train.epochs"]}, ["train.epochs", "key=value"]),
        ({"until": "verfy"}, ["until='verfy'", "verify"]),
        ({"name": "a/b"}, ["name='a/b'"]),
    ],
)
def test_a_mistake_names_file_key_and_remedy(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = write_sweep(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load_sweep(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_file_that_is_missing_or_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_sweep(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("axes: [")
    with pytest.raises(UserError, match=r"bad\.yaml, line 1, column 8: no YAML"):
        load_sweep(tmp_path / "bad.yaml")
