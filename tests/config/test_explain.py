"""What list and explain say: every option, every key, with the value of what is chosen and a meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnet.config.components import GROUPS, REGISTRIES
from rnet.config.explain import explain, list_options, summary_of
from rnet.errors import UserError


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_option_is_listed_with_a_sentence(group: str) -> None:
    for option in list_options(group):
        assert option["summary"], option
        assert option["origin"] == "rnet"


@pytest.mark.parametrize("group", ["dataset", "model", "attack", "defense", "engine"])
def test_every_key_of_every_option_has_a_type_and_a_meaning(group: str) -> None:
    for option in list_options(group):
        for row in explain([f"{group}={option['name']}"]):
            assert row["key"].startswith(f"{group}.")
            assert row["type"]
            assert row["meaning"], row["key"]


def test_values_are_those_of_what_is_chosen_with_its_preset() -> None:
    (row,) = explain(["attack.temperature"])
    assert row["value"] == 20.0
    rows = {row["key"]: row["value"] for row in explain(["dataset=gtsrb", "attack=removalnet"])}
    assert rows["attack.temperature"] == 10.0
    assert rows["dataset.image_size"] == 32
    assert not any(key.startswith("defense") for key in rows)


def test_one_key_several_groups_and_everything_can_be_explained() -> None:
    assert [row["key"] for row in explain(["attack.rho"])] == ["attack.rho"]
    assert {row["key"].partition(".")[0] for row in explain(["engine", "seed"])} == {"engine", "seed"}
    assert {row["key"].partition(".")[0] for row in explain([])} > set(GROUPS)


def test_a_preset_that_is_chosen_explains_the_group_it_refines() -> None:
    rows = {row["key"]: row["value"] for row in explain(["attack_preset=removalnet_imagenet"])}
    assert rows["attack.iterations"] == 2000


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean attack\.rho"):
        explain(["attack.roh"])


def test_a_users_option_is_listed_with_its_comment_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "mine.yaml").write_text("# Gentler\n# than most.\nname: removalnet\nrho: 0.01\n")
    (option,) = [row for row in list_options("attack", tmp_path) if row["name"] == "mine"]
    assert option == {"name": "mine", "summary": "Gentler than most.", "origin": str(tmp_path)}


def test_a_summary_is_the_first_sentence_of_a_docstring_and_needs_no_import() -> None:
    assert summary_of("tests.plugins.attack:Prune").startswith("Weights of least magnitude become zero")
    assert summary_of("tests.plugins.attack:Nothing") == ""
    assert summary_of("no.such.module:Nothing") == ""
