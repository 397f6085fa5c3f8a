"""Configuration: composition, overrides, errors that name the nearest valid name, and stable hashes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from rnet.attacks.registry import ATTACKS
from rnet.config import compose
from rnet.config.components import GROUPS, TOP_LEVEL
from rnet.config.compose import option_names
from rnet.config.documents import content_id, run_to_dict, to_yaml
from rnet.config.overrides import expand_choices
from rnet.config.run import RunConfig, load_config
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from rnet.registry import Registry
from rnet.stages.graph import STAGE_NAMES, document


def test_a_run_has_every_group_and_every_other_key() -> None:
    assert {field.name for field in dataclasses.fields(RunConfig)} == {*GROUPS, *TOP_LEVEL}


def test_overrides_reach_the_dataclasses_with_their_types() -> None:
    run = load_config(["dataset=digits", "attack=removalnet", "attack.iterations=10", "attack.rho=0.5", "seed=3"])
    assert (run.dataset.name, run.attack.iterations, run.attack.rho, run.seed) == ("digits", 10, 0.5, 3)


def test_components_without_a_seed_of_their_own_take_the_runs_seed() -> None:
    run = load_config(["seed=3", "train.seed=8"])
    assert (run.attack.seed, run.train.seed) == (3, 8)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config([]).attack.iterations = 3


def test_the_authors_preset_for_a_dataset_applies_and_an_override_beats_it() -> None:
    assert load_config(["dataset=gtsrb"]).attack.temperature == 10.0
    assert load_config(["dataset=gtsrb", "attack.temperature=5"]).attack.temperature == 5.0
    assert load_config(["dataset=gtsrb", "attack=finetune"]).attack.name == "finetune"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset=digit"], ["dataset='digit'", "digits"]),
        (["model=resnet9"], ["model='resnet9'", "resnet8"]),
        (["attack=removalnett"], ["attack='removalnett'", "did you mean removalnet"]),
        (["defense=ipgard"], ["defense='ipgard'", "ipguard"]),
        (["engine=ddpp"], ["engine='ddpp'", "plain"]),
        (["attack.iteration=3"], ["attack.iteration", "attack.iterations"]),
        (["atack.iterations=3"], ["atack.iterations", "attack"]),
        (["sed=3"], ["'sed'", "seed"]),
        (["attack.iterations=many"], ["attack.iterations='many'", "whole number"]),
        (["attack.iterations=1.5"], ["attack.iterations='1.5'", "whole number"]),
        (["seed=abc"], ["seed='abc'", "whole number"]),
        (["precision=fp8"], ["precision='fp8'", "bf16"]),
        (["negatives=-1"], ["negatives=-1"]),
        (["dataset"], ["'dataset'", "key=value"]),
        (["+attack.new=1"], ["cannot be added"]),
        (["attack.iterations=1,2"], ["attack.iterations='1,2'", "whole number"]),
    ],
)
def test_a_wrong_override_names_the_value_and_the_remedy(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_user_folder_adds_an_option_to_a_group(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "small_digits.yaml").write_text("name: digits\nimage_size: 8\n")
    run = load_config(["dataset=small_digits"], config_dir=tmp_path)
    assert (run.dataset.name, run.dataset.image_size) == ("digits", 8)


@pytest.mark.parametrize("registry", [ATTACKS, DEFENSES])
def test_a_component_has_the_configuration_that_its_name_promises(registry: Registry) -> None:
    for name in registry.names():
        config = registry.config_class(name)(**({"weights": "w.pt"} if name == "import" else {}))
        assert registry.build(config).config is config
        assert config.name == name


@pytest.mark.parametrize("registry", [ATTACKS, DEFENSES])
def test_building_a_component_checks_its_configuration(registry: Registry) -> None:
    class Refused(Exception):
        pass

    for name in registry.names():

        class Config(registry.config_class(name)):  # type: ignore[misc]
            def check(self) -> None:
                raise Refused

        with pytest.raises(Refused):
            registry.build(Config())


def test_an_unknown_key_in_a_user_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "mine.yaml").write_text("name: removalnet\nalfa: 3\n")
    with pytest.raises(UserError, match=r"mine.yaml, line 2, column 1: .*did you mean attack.alpha"):
        load_config(["attack=mine"], config_dir=tmp_path)


@pytest.mark.parametrize("group", ["dataset", "model", "attack", "defense", "engine"])
def test_every_shipped_option_composes(group: str) -> None:
    for option in option_names(group):
        assert getattr(load_config([f"{group}={option}"]), group).name


def _id(stage: str, *overrides: str) -> str:
    return content_id(document(stage, load_config(overrides)))


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_same_configuration_has_the_same_id_and_another_seed_another(stage: str) -> None:
    assert _id(stage) == _id(stage, "seed=0")
    assert _id(stage) != _id(stage, "seed=1")


def test_how_a_stage_is_executed_is_not_part_of_its_id() -> None:
    assert _id("verify", "engine.device=cpu", "engine.log_every=1", "engine.checkpoint_steps=5") == _id("verify")


def test_the_mathematics_is_part_of_the_id() -> None:
    for override in (
        "precision=bf16",
        "attack.batch_size=16",
        "dataset.split_seed=1",
        "train.epochs=3",
        "model.width=8",
    ):
        assert _id("attack", override) != _id("attack")


def test_a_defence_does_not_change_the_id_of_an_attack() -> None:
    assert _id("attack", "defense.k=3") == _id("attack")


@pytest.mark.parametrize(("preset", "beta"), [("removalnet_imagenet", 4.0), ("removalnet_cinic10", 2.0)])
def test_a_preset_can_be_chosen_for_another_dataset(preset: str, beta: float) -> None:
    run = load_config(["dataset=image_folder", "attack=removalnet", f"attack_preset={preset}"])
    assert (run.attack.beta, run.attack.num_poison_steps) == (beta, 30)
    assert load_config([f"attack_preset={preset}", "attack.beta=1"]).attack.beta == 1.0


def test_an_unknown_preset_and_one_of_another_attack_are_refused() -> None:
    with pytest.raises(UserError, match="attack_preset='removalnet_imagnet' does not exist; did you mean"):
        load_config(["attack_preset=removalnet_imagnet"])
    with pytest.raises(
        UserError, match=r"removalnet_imagenet.yaml, line 2, column 1: key='attack.alpha' does not exist"
    ):
        load_config(["attack=identity", "attack_preset=removalnet_imagenet"])


def test_an_option_of_the_users_own_may_name_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "mine.yaml").write_text("name: tests.plugins.attack:Prune\nrate: 0.7\n")
    run = load_config(["attack=mine"], config_dir=tmp_path)
    assert (run.attack.name, run.attack.rate) == ("tests.plugins.attack:Prune", 0.7)
    assert load_config(["attack=mine", "attack.rate=0.2"], config_dir=tmp_path).attack.rate == 0.2


def test_a_plugin_takes_no_preset_of_what_it_replaces() -> None:
    run = load_config(["dataset=tests.plugins.dataset:load_stripes"])
    assert (run.train.epochs, run.attack.batch_size) == (10, 128)


def test_a_name_given_as_a_key_decides_the_component() -> None:
    run = load_config(["dataset=cifar10", "attack.name=tests.plugins.attack:Prune"])
    assert run.attack.rate == 0.3


def test_the_yaml_text_reads_back_as_the_same_document() -> None:
    document = run_to_dict(load_config([]))
    assert yaml.safe_load(to_yaml(document)) == document


def test_comma_lists_of_attacks_and_defences_become_one_run_each() -> None:
    lines = expand_choices(["seed=1", "attack=finetune,removalnet", "defense=ipguard,zest"])
    assert lines == [
        ["seed=1", f"attack={attack}", f"defense={defense}"]
        for attack in ("finetune", "removalnet")
        for defense in ("ipguard", "zest")
    ]


def test_all_stands_for_every_defence() -> None:
    defenses = [load_config(line).defense.name for line in expand_choices(["defense=all"])]
    assert {"ipguard", "modeldiff", "zest", "deepjudge", "sac", "akh", "dataset_inference", "random"} == set(defenses)


def test_an_id_depends_on_content_only_not_on_shared_objects_or_order() -> None:
    shared: list[str] = []
    assert content_id({"a": shared, "b": shared}) == content_id({"b": [], "a": []})
    assert content_id({"a": 0.0}) != content_id({"a": -0.0})
    assert content_id({"a": 1}) != content_id({"a": 1.0}) != content_id({"a": "1.0"})


def test_a_pipe_for_an_option_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model" / "mine.yaml")
    with pytest.raises(UserError, match=r"mine\.yaml is no file but a folder, a pipe"):
        load_config(["model=mine"], config_dir=tmp_path)


def test_a_folder_of_options_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(compose.os, "listdir", closed)
    with pytest.raises(UserError, match=r"cannot list .*: Permission denied"):
        load_config(["model=resnet8"], config_dir=tmp_path)
