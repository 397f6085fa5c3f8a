"""Sweep files: what they expand to, and one clear message for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.spec import load_sweep
from rnet.config.run import load_config
from rnet.errors import UserError
from tests.launch.sweep.sweeps import write_sweep
from tests.published_files import write_published


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
    ("written", "values"),
    [
        ({"range": [0, 10, 2]}, "0 2 4 6 8 10"),
        ({"range": [1, 4]}, "1 2 3 4"),
        ({"range": [10, 0, -4]}, "10 6 2"),
        ({"range": [0.1, 0.5, 0.1]}, "0.1 0.2 0.3 0.4 0.5"),
        ({"range": ["1e3", 2000, 500]}, "1000 1500 2000"),
        ({"range": [5, 5]}, "5"),
        ({"log_range": [0.001, 1, 4]}, "0.001 0.01 0.1 1"),
        ({"log_range": [1000, 10, 3]}, "1000 100 10"),
        ({"log_range": ["1e-9", "1e-8", 2]}, "1e-09 1e-08"),
        ([0.5, {"range": [1, 3]}], "0.5 1 2 3"),
        (7, "7"),
    ],
)
def test_ranges_are_numbers_from_the_first_to_the_last(written: Any, values: str, tmp_path: Path) -> None:
    path = write_sweep(tmp_path, axes={"attack": ["finetune"], "attack.learning_rate": written}, cases=None)
    assert load_sweep(path).axes["attack.learning_rate"] == tuple(values.split())


def test_seeds_are_the_axis_seed_wherever_they_are_written(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, axes={"attack": ["identity"]}, seeds=3, cases=None)
    assert load_sweep(path).axes == {"attack": ("identity",), "seed": ("0", "1", "2")}
    assert load_sweep(path, ["seeds=1"]).axes["seed"] == ("0",)
    assert load_sweep(path, ["axes.seed=[7]"]).axes["seed"] == ("7",)
    assert load_sweep(write_sweep(tmp_path, axes={"seed": [4]}, cases=None), ["seeds=2"]).axes["seed"] == ("0", "1")
    assert load_sweep(write_sweep(tmp_path, axes=None, seeds=2, cases=None)).axes == {"seed": ("0", "1")}


def test_axes_that_are_zipped_go_together_value_by_value(tmp_path: Path) -> None:
    axes = {"dataset": ["digits", "lfw"], "seed": [0, 1], "model": ["resnet8", "resnet20"], "precision": ["fp32"]}
    expected = [
        {"dataset": dataset, "seed": seed, "model": model, "precision": "fp32"}
        for dataset, model in (("digits", "resnet8"), ("lfw", "resnet20"))
        for seed in ("0", "1")
    ]
    for written in (["dataset", "model"], [["dataset", "model"]]):
        assert list(load_sweep(write_sweep(tmp_path, axes=axes, zip=written, cases=None)).rows()) == expected


def test_only_rows_that_match_one_of_the_rules_are_kept(tmp_path: Path) -> None:
    axes = {"attack": ["identity", "finetune"], "defense": ["random", "akh"], "seed": [0, 1]}
    only = [{"attack": "finetune", "seed": 1}, {"defense": "akh"}]
    path = write_sweep(tmp_path, axes=axes, only=only, exclude=[{"seed": 0, "attack": "finetune"}], cases=None)
    assert [" ".join(row.values()) for row in load_sweep(path).rows()] == [
        "identity akh 0",
        "identity akh 1",
        "finetune random 1",
        "finetune akh 1",
    ]


def test_a_value_may_be_a_list(tmp_path: Path) -> None:
    axes = {"attack": ["identity"], "train.crop_scale": [[0.5, 1], [0.2, 1], []]}
    path = write_sweep(
        tmp_path, axes=axes, cases=[{"when": {"train.crop_scale": [[0.2, 1]]}, "set": ["seed=4"]}], set=None
    )
    sweep = load_sweep(path)
    assert sweep.axes["train.crop_scale"] == ("[0.5, 1]", "[0.2, 1]", "[]")
    assert ["seed=4" in sweep.overrides(row) for row in sweep.rows()] == [False, True, False]
    configs = [load_config(sweep.overrides(row)) for row in sweep.rows()]
    assert [config.train.crop_scale for config in configs] == [[0.5, 1.0], [0.2, 1.0], []]


def test_rules_may_name_values_that_the_command_line_took_out(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, exclude=[{"attack": "finetune", "defense": "akh"}],
                                   axes={"attack": ["identity", "finetune"], "defense": ["ipguard", "akh"]}),
                       ["axes.attack=[identity]", "axes.defense=[akh]"])  # fmt: skip
    assert len(list(sweep.rows())) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axis": {}}, ["key='axis'", "axes"]),
        ({"axes": {"datset": ["digits"]}}, ["axis='datset'", "dataset"]),
        ({"axes": {"negatives": [1]}}, ["negatives", "set"]),
        ({"axes": {"seed": []}}, ["axes.seed", "empty"]),
        ({"axes": {"seed": [1, 1]}}, ["axes.seed", "twice"]),
        ({"axes": {"seed": [[[1]]]}}, ["axes.seed", "[['1']]"]),
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
        ({"axes": {}}, ["axes is empty", "e.g. axes:"]),
        ({"axes": ["seed"]}, ["line 14", "axes must map names"]),
        ({"seeds": 2}, ["seeds='2' and axes.seed", "take one out"]),
        ({"seeds": 0, "axes": {"attack": ["finetune"]}}, ["seeds='0'", "at least 1"]),
        ({"seeds": "many", "axes": {"attack": ["finetune"]}}, ["seeds='many'", "a whole number"]),
        ({"axes": {"seed": {"range": [0, 10, 0]}}}, ["axes.seed.range", "in steps of 0"]),
        ({"axes": {"seed": {"range": [0, 10, -1]}}}, ["axes.seed.range", "in steps of -1"]),
        ({"axes": {"seed": {"range": [0, "1e300"]}}}, ["axes.seed.range", "more than 200,000 values"]),
        ({"axes": {"seed": None}}, ["line 14, column", "axes.seed has no value", "[null]"]),
        ({"axes": {"seed": {"range": [0, "x"]}}}, ["axes.seed.range='x'", "a number"]),
        ({"axes": {"seed": {"range": [0]}}}, ["axes.seed.range=['0']", "[first, last, step]"]),
        ({"axes": {"seed": {"range": "0..9"}}}, ["axes.seed.range='0..9'", "[first, last, step]"]),
        ({"axes": {"seed": {"ranges": [0, 1]}}}, ["axes.seed key='ranges'", "did you mean range"]),
        ({"axes": {"seed": {}}}, ["axes.seed", "{range: [first, last, step]}"]),
        ({"axes": {"seed": {"range": [0, 3], "log_range": [1, 2, 3]}}}, ["axes.seed", "{range: [first, last, step]}"]),
        ({"axes": {"seed": [1, {"range": [0, 3]}]}}, ["axes.seed has '1' twice"]),
        ({"axes": {"train.weight_decay": {"log_range": [0, 1, 3]}}}, ["log_range=[0, 1, 3]", "above 0"]),
        ({"axes": {"train.weight_decay": {"log_range": [0.1, 1, 1]}}}, ["log_range=[0.1, 1, 1]", "2 values"]),
        ({"axes": {"train.weight_decay": {"log_range": [0.1, 1]}}}, ["[first, last, how many]"]),
        ({"zip": "attack"}, ["zip='attack'", "[[dataset, model]]"]),
        ({"zip": [["attack"]]}, ["zip has ['attack']", "two axes"]),
        ({"zip": [["attack", "modell"]]}, ["zip axis='modell'", "model"]),
        ({"zip": [["attack", "defense"], ["attack", "seed"]]}, ["zip has 'attack' twice"]),
        ({"zip": ["attack", "seed"]}, ["attack has 2, seed has 1 values"]),
        ({"zip": [["attack", "defense"], "seed"]}, ["zip has 'seed'"]),
        ({"only": [{"seed": 1}]}, ["only[0].seed='1'"]),
        ({"only": {"seed": 0}}, ["only={'seed': '0'} must be a list"]),
        ({"only": [{"attack": "identity"}], "exclude": [{"attack": "identity"}]}, ["only and exclude leave no rows"]),
    ],
)
def test_a_mistake_names_file_key_and_remedy(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = write_sweep(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load_sweep(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_the_file_that_the_documentation_explains_can_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    page = Path(__file__).resolve().parents[4] / "slurm" / "README.md"
    text = page.read_text().partition("## Your sweep in a file")[2].partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "s.yaml").write_text(text)
    write_published(tmp_path)
    rows = make_plan(tmp_path / "s.yaml").rows
    assert len(rows) == 2 * (3 + 3 + 1) * 2 * 3
    assert {(row.values["dataset"], row.values["model"]) for row in rows} == {
        ("digits", "resnet8"),
        ("fashion_mnist", "resnet20"),
    }


def test_a_file_that_is_missing_or_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_sweep(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("axes: [")
    with pytest.raises(UserError, match=r"bad\.yaml, line 1, column 8: no YAML"):
        load_sweep(tmp_path / "bad.yaml")
