"""A folder of suspects on the command line: which runs it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnet.command.suspects import runs_of
from rnet.config.run import load_config
from rnet.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of weights, one with an awkward name, and a note."""
    folder = tmp_path / "their models"
    folder.mkdir()
    for name in ("b.pt", "a=1, [2].pt", "README.md"):
        (folder / name).write_bytes(b"x")
    return folder


def test_each_file_is_a_suspect_of_its_own_for_each_defence(folder: Path) -> None:
    runs = runs_of("verify", [f"suspects={folder}", "defense=ipguard,zest", "seed=3", "attack.derived=true"])
    found = [load_config(run) for run in runs]
    assert [(run.attack.weights, run.defense.name) for run in found] == [
        (str(folder / name), defense) for name in ("a=1, [2].pt", "b.pt") for defense in ("ipguard", "zest")
    ]
    assert {run.attack.derived for run in found} == {True}
    assert {run.seed for run in found} == {3}


def test_suspects_of_a_folder_stand_beside_the_attacks_that_are_named(folder: Path) -> None:
    lines = ["attack=finetune,identity", "attack.batch_size=8", "attack.model.name=resnet14", f"suspects={folder}"]
    runs = runs_of("verify", [line for line in lines if line != "attack.batch_size=8"])
    found = [load_config(run) for run in runs]
    assert [run.attack.name for run in found] == ["finetune", "identity", "import", "import"]
    assert {run.attack.model.name for run in found[2:]} == {"resnet14"}
    assert load_config(runs_of("verify", [*lines[:2], lines[3]][1:])[0]).attack.batch_size == 8


def test_a_setting_of_no_suspect_of_the_folder_is_refused(folder: Path) -> None:
    (run, _) = runs_of("verify", [f"suspects={folder}", "attack.iterations=3"])
    with pytest.raises(UserError, match=r"key='attack\.iterations' does not exist"):
        load_config(run)


def test_only_verify_judges_a_folder(folder: Path) -> None:
    with pytest.raises(UserError, match="only rnet verify judges a folder"):
        runs_of("attack", [f"suspects={folder}"])


def test_without_a_folder_runs_are_combinations_of_choices() -> None:
    assert runs_of("train", ["seed=1"]) == [["seed=1"]]
    assert runs_of("verify", ["attack=a,b"]) == [["attack=a"], ["attack=b"]]
