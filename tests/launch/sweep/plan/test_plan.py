"""Plans: shared parents once, ids as the stages make them, and everything refused before anything is submitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.sweep.plan.expand import check_deeply, make_plan
from launch.sweep.plan.plan import done_cells, read_plan, save_plan
from rnet.config.compose import config_folder
from rnet.config.documents import content_id, run_from_dict
from rnet.config.run import Configurations, load_config
from rnet.errors import UserError
from rnet.stages.graph import document, negative_configs
from tests.data.miniatures import imagenet
from tests.launch.sweep.sweeps import TINY, finish, tiny_plan, write_sweep
from tests.published_files import write_published


def test_shared_parents_are_planned_once_and_come_first(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, "axes.seed=[0,1]")
    assert Counter(cell.stage for cell in plan.cells) == {"train": 2, "attack": 4, "fingerprint": 4, "verify": 8}
    assert len(plan.rows) == 8
    assert all(parent < place for place, cell in enumerate(plan.cells) for parent in cell.parents)
    assert all(plan.cells[cell.victim].stage == "train" for cell in plan.cells)
    verify = plan.cells[plan.rows[0].cells["verify"]]
    assert [plan.cells[parent].stage for parent in verify.parents] == ["attack", "fingerprint"]


def test_every_cell_has_the_id_that_the_stages_give_it(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, "axes.seed=[0,3]", "axes.precision=[fp32,bf16]", set=[])
    for row in plan.rows:
        config = load_config([f"{axis}={value}" for axis, value in row.values.items() if axis != "none"] + _case(row))
        for stage, place in row.cells.items():
            assert plan.cells[place].id == content_id(document(stage, config))


def test_rows_whose_profiles_set_the_same_values_share_their_cells(tmp_path: Path) -> None:
    axes = {"attack": ["identity"], "defense": ["zest"], "defense.profile": [None, "original", "released"]}
    plan = tiny_plan(tmp_path, axes=axes, cases=[], set=["seed=0"])
    assert len(plan.rows) == 3
    assert Counter(cell.stage for cell in plan.cells) == {"train": 1, "attack": 1, "fingerprint": 2, "verify": 2}
    assert plan.rows[0].cells == plan.rows[1].cells


def _case(row: Any) -> list[str]:
    lines = []
    if row.values["attack"] == "finetune":
        lines += ["attack.substitute_size=48", "attack.iterations=4", "attack.batch_size=16"]
    if row.values["defense"] == "ipguard":
        lines += ["defense.num_queries=8", "defense.steps=20"]
    return lines


def test_a_cells_saved_settings_make_its_configuration_again(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, "axes.seed=[0,1]", set=["negatives=1", "model.width=4"])
    saved = read_plan(save_plan(plan, tmp_path / "store"))
    for cell in plan.cells:
        config = run_from_dict(saved.configuration(cell))
        assert content_id(document(cell.stage, config)) == cell.id
    assert len(plan.settings) < 20  # shared, whatever the number of cells


def test_settings_of_another_version_are_refused(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    written = plan.configuration(plan.cells[0])
    for changed in ({**written, "model": {**written["model"], "depth": 3}}, {**written, "colour": "red"}):
        with pytest.raises(UserError, match="another version of rnet"):
            run_from_dict(changed)


def test_negatives_are_planned_once_for_all_suspects_of_a_victim(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, set=["negatives=3"])
    assert Counter(cell.stage for cell in plan.cells) == {"train": 1, "attack": 5, "fingerprint": 2, "verify": 10}
    assert plan.rows[0].negatives == plan.rows[2].negatives  # same defence, other suspect
    assert len(set(plan.rows[0].negatives)) == 3


def test_negatives_are_of_the_kinds_that_the_stages_give_each_defence(tmp_path: Path) -> None:
    mixed = ["negative_kinds=seeds,architectures", "negative_models=resnet20"]
    for lines in ([], mixed):
        own = [*TINY["set"], "negatives=3", *lines]
        axes = ["axes.attack=[identity]", "axes.defense=[random,dataset_inference]"]
        plan = tiny_plan(tmp_path, *axes, set=own, cases=[])
        for row in plan.rows:
            config = load_config([*own, f"defense={row.values['defense']}"])
            expected = [content_id(document("verify", negative)) for negative in negative_configs(config)]
            assert [plan.cells[index].id for index in row.negatives] == expected


def test_an_axis_of_substitutes_makes_cells_of_attacks_that_use_them(tmp_path: Path) -> None:
    axes = ["axes.substitute=[own,victim_train,digits]", "axes.defense=[random]"]
    plan = tiny_plan(tmp_path, *axes, set=[*TINY["set"], "negatives=1"], cases=TINY["cases"][:1])
    assert Counter(cell.stage for cell in plan.cells) == {"train": 1, "attack": 5, "fingerprint": 1, "verify": 5}
    assert len({row.negatives for row in plan.rows}) == 1
    assert len({row.cells["attack"] for row in plan.rows if row.values["attack"] == "finetune"}) == 3
    for cell in plan.cells:
        assert content_id(document(cell.stage, run_from_dict(plan.configuration(cell)))) == cell.id
    assert check_deeply(plan)


def test_training_of_negatives_has_resources_of_its_own(tmp_path: Path) -> None:
    resources = {"attack": {"cpus": 2}, "negatives": {"cpus": 4, "nodes": 2}}
    plan = tiny_plan(tmp_path, set=[*TINY["set"], "negatives=1"], resources=resources)
    shapes = {
        (run_from_dict(plan.configuration(cell)).attack.name == "independent", cell.stage): plan.shapes[cell.shape]
        for cell in plan.cells
    }
    found = {key: (shape.nodes, shape.cpus) for key, shape in shapes.items() if key[1] in ("attack", "verify")}
    assert found == {
        (False, "attack"): (1, 2), (True, "attack"): (2, 4), (False, "verify"): (1, 1), (True, "verify"): (1, 1)
    }  # fmt: skip


def test_the_sweep_of_imagenet_is_planned_and_without_images_names_their_folder(tmp_path: Path) -> None:
    shipped = config_folder() / "sweep" / "imagenet.yaml"
    with pytest.raises(UserError, match=r"dataset=imagenet cannot be read from /shared/imagenet.*set dataset\.folder"):
        make_plan(shipped, ["axes.seed=[0]"])
    imagenet(tmp_path)
    mine = tmp_path / "mine.yaml"
    mine.write_text(shipped.read_text().replace("/shared/imagenet ", f"{tmp_path} "))
    plan = make_plan(mine, ["axes.seed=[0]", "axes.defense=[ipguard]"])
    assert Counter(cell.stage for cell in plan.cells) == {"train": 2, "attack": 26, "fingerprint": 2, "verify": 26}
    recipes = {run_from_dict(plan.configuration(cell)).train.name for cell in plan.cells}
    assert recipes == {"imagenet_resnet50", "imagenet_vit"}
    assert max(shape.nodes for shape in plan.shapes) == 8


def test_changing_one_axis_value_leaves_what_does_not_depend_on_it(tmp_path: Path) -> None:
    before = {cell.label for cell in tiny_plan(tmp_path).cells}
    after = {cell.label for cell in tiny_plan(tmp_path, "axes.defense=[ipguard,akh]").cells}
    assert Counter(label.split("/")[0] for label in after - before) == {"fingerprint": 1, "verify": 2}


def test_until_leaves_out_what_comes_after(tmp_path: Path) -> None:
    assert {cell.stage for cell in tiny_plan(tmp_path, "until=attack").cells} == {"train", "attack"}
    assert {cell.stage for cell in tiny_plan(tmp_path, "until=fingerprint").cells} == {"train", "fingerprint"}


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, "resources.train.cpus=3")
    again = read_plan(save_plan(plan, tmp_path / "store"))
    assert again == plan


def test_done_cells_are_those_with_a_result(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    finish(tmp_path / "store", plan.cells[0].label)
    (tmp_path / "store" / plan.cells[1].label).mkdir(parents=True)
    assert done_cells(plan, tmp_path / "store") == {0}
    assert done_cells(plan, tmp_path / "nowhere") == set()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": {"attack": ["removalnt"]}}, ["attack=removalnt", "removalnet"]),
        ({"axes": {"attack": ["identity", "finetune"]}, "set": ["attack.rho=0.1"]}, ["attack=identity", "attack.rho"]),
        ({"axes": {"attack": ["finetune"], "attack.fraction": [0.5, 0]}}, ["attack.fraction=0", "above 0"]),
        ({"axes": {"defense": ["zest"], "defense.align": ["auto", "often"]}}, ["defense.align='often'", "always"]),
        ({"axes": {"seed": ["one"]}}, ["seed=one", "whole number"]),
        ({"axes": {"precision": ["fp8"]}}, ["precision", "fp8"]),
        ({"axes": {"attack": ["finetune"]}, "set": ["negatives=2", "attack.iterations=3"]}, ["attack.iterations=3"]),
        ({"axes": {"seed": ["1", "01", "2"]}}, ["line 16, column", "seed=1 and seed=01 are the same"]),
        ({"axes": {"train.crop_scale": [[0.5, 1], [0.5, 1.0]]}}, ["[0.5, 1]", "are the same"]),
        ({"axes": {"train.weight_decay": ["0.1", "1e-1"]}}, ["train.weight_decay=0.1 and train.weight_decay=1e-1"]),
        ({"cluster": "slrum"}, ["cluster='slrum'", "slurm"]),
        ({"resources": {"train": {"gpu": 1}}}, ["'gpu'", "gpus"]),
        ({"resources": {"train": {"gpus": 4}}}, ["gpus=4", "processes"]),
        ({"resources": {"train": {"minutes": "an hour"}}}, ["minutes='an hour'", "whole number"]),
        ({"resources": {"train": {"pack": 2, "processes": 2}}}, ["pack=2"]),
        ({"set": ["engine.compile=maybe"]}, ["engine.compile='maybe'", "true, false or auto"]),
    ],
)
def test_what_cannot_work_is_refused_by_the_plan(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(write_sweep(tmp_path, cases=None, **changes))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "axis"),
    [
        ({"until": "attack"}, "defense"),
        ({"axes": {"seed": [0, 1], "engine.workers": [0, 1]}}, "engine.workers"),
        ({}, None),
        ({"axes": {"seed": [0, 1], "model": ["resnet8", "resnet20"]}, "zip": ["seed", "model"]}, None),
    ],
)
def test_an_axis_that_changes_nothing_is_warned_about(
    changes: dict[str, Any], axis: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_plan(write_sweep(tmp_path, **({"cases": None} | changes)))
    assert [record.args[0] for record in caplog.records if record.args] == ([axis] if axis else [])


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        *(("90", 90), ("010", 10), ("90:00", 90), ("90:01", 91), ("24:00:00", 1440), ("08:00:00", 480)),
        *(("1-0", 1440), ("1-12", 2160), ("1-12:30", 2190), ("0-00:00:30", 1), ("1e2", 100)),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(written: str, minutes: int, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"axes: {{seed: [0]}}\nuntil: train\nresources: {{train: {{minutes: {written}}}}}\n")
    assert [shape.minutes for shape in make_plan(path).shapes] == [minutes]


def test_a_model_that_cannot_be_cut_there_is_refused_before_submission(tmp_path: Path) -> None:
    axes = {"attack": ["removalnet"], "attack.layer": ["layer2", "layer9"], "attack.substitute_size": [48]}
    changes: dict[str, Any] = {"axes": axes, "cases": None}
    with pytest.raises(UserError, match="layer9"):
        check_deeply(tiny_plan(tmp_path, **changes))


@pytest.mark.parametrize(
    "lines",
    [
        ["dataset=fashion_mnist", "attack=finetune", "seed=3"],
        ["attack=removalnet", "attack.seed=7", "seed=2", "precision=bf16", "negatives=4"],
        ["train.seed=5", "seed=6", "model=resnet20", "defense=zest"],
        ["dataset=gtsrb"],
        ["dataset=fashion_mnist", "attack=finetune", "attack.seed=null"],
        ["dataset=lfw", "attack=removalnet", "attack.rho=0.5"],
    ],
)
def test_what_is_shared_by_many_rows_gives_what_load_config_gives(lines: list[str]) -> None:
    known = Configurations()
    for dataset, attack in product(("digits", "cifar10"), ("removalnet", "finetune")):
        known.load([f"dataset={dataset}", f"attack={attack}", "seed=1"])  # what is kept of this must not show
    assert known.load(lines) == load_config(lines)


def test_a_users_preset_applies_to_its_dataset_only(tmp_path: Path) -> None:
    (tmp_path / "attack_preset").mkdir()
    (tmp_path / "attack_preset" / "removalnet_lfw.yaml").write_text("rho: 0.77\n")
    known = Configurations(tmp_path)
    found = [known.load([f"dataset={dataset}", "attack=removalnet"]).attack.rho for dataset in ("lfw", "cifar10")]
    assert found == [0.77, 0.02]


def test_an_option_that_reaches_beyond_its_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "loud.yaml").write_text("name: resnet8\nattack:\n  rho: 0.77\n")
    with pytest.raises(UserError, match=r"loud\.yaml, line 2, column 1: key='model\.attack' does not exist"):
        load_config(["model=loud"], config_dir=tmp_path)


PLAN = """
import json, sys
from launch.cli import app
app(["sweep", "plan", *sys.argv[1:], "--json"], standalone_mode=False)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"torch": "torch" in sys.modules, "peak_kb": int(peak.split()[1])}), file=sys.stderr)
"""


@pytest.mark.slow
def test_ten_thousand_rows_are_planned_without_torch_and_in_little_memory(tmp_path: Path) -> None:
    axes = {
        "dataset": ["digits", "fashion_mnist", "cifar10", "gtsrb"],
        "model": ["resnet8", "resnet20", "resnet18", "vgg19_bn", "mobilenet_v2"],
        "attack": ["identity", "finetune", "finetune_last", "removalnet"],
        "defense": ["ipguard", "zest", "akh", "sac", "modeldiff"],
        "seed": list(range(25)),
    }
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump({"cluster": "slurm", "axes": axes}, sort_keys=False))
    command = [sys.executable, "-c", PLAN, str(path), "--root", str(tmp_path / "store")]
    write_published(tmp_path)
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    plan, process = json.loads(done.stdout), json.loads(done.stderr)
    assert plan["rows"] == 10_000
    assert plan["cells"] == {"train": 500, "attack": 2000, "fingerprint": 2500, "verify": 10_000}
    assert not process["torch"]
    assert process["peak_kb"] < 200_000
