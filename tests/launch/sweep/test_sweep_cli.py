"""`rnet sweep` as people type it: what it prints, its exit statuses, and nothing written by looking."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from launch.sweep.cli import sweep_app
from launch.sweep.clusters import snapshot
from launch.sweep.here import find_cell
from launch.sweep.plan.plan import save_plan
from tests.launch.sweep.sweeps import TINY, finish, tiny_plan, write_sweep

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
OFFLINE = [path for path in sorted((CONFIGS / "sweep").glob("*.yaml")) if path.stem != "imagenet"]  # plan/test_plan.py


def sweep(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command."""
    result = CliRunner().invoke(sweep_app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_plan_shows_cells_arrays_and_the_job_script_and_writes_nothing(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, resources={"default": {"cpus": 3}})
    code, out, err = sweep("plan", path, "cluster=dev", "--root", tmp_path / "store")
    assert code == 0, err
    assert "4 rows, 9 cells" in out
    assert "#SBATCH --cpus-per-task=3" in out
    assert "#SBATCH --partition=main" in out
    assert not (tmp_path / "store").exists()


def test_plan_as_json_counts_what_is_done(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    finish(tmp_path / "store", plan.cells[0].label)
    code, out, _ = sweep("plan", tmp_path / "tiny.yaml", "cluster=dev", "--root", tmp_path / "store", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["cells"] == {"train": 1, "attack": 2, "fingerprint": 2, "verify": 4}
    assert found["done"] == {"train": 1}
    assert [array["stage"] for array in found["arrays"]] == ["attack", "fingerprint", "verify", "verify"]


def test_plan_lists_each_cell_with_its_state_and_what_it_waits_for(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    finish(tmp_path / "store", plan.cells[0].label)
    code, out, err = sweep("plan", tmp_path / "tiny.yaml", "--cells", "--root", tmp_path / "store")
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    train, attack, fingerprint, verify = (cell.label for cell in plan.cells[:4])
    assert f"done {train} train resnet8" in lines
    assert f"not submitted {attack} attack identity" in lines
    assert f"not submitted {verify} verify ipguard attack=identity {attack} {fingerprint}" in lines
    _, out, _ = sweep("plan", tmp_path / "tiny.yaml", "--cells", "--json", "--root", tmp_path / "store")
    found = {cell["cell"]: cell for cell in json.loads(out)["all_cells"]}
    assert len(found) == 9
    assert found[verify]["axes"] == plan.rows[0].values
    assert (found[verify]["waits_for"], found[train]["state"]) == ([attack, fingerprint], "done")


def test_plan_against_another_file_or_what_was_submitted_says_what_would_be_computed_again(tmp_path: Path) -> None:
    old, root = tiny_plan(tmp_path), tmp_path / "store"
    (tmp_path / "tiny.yaml").rename(tmp_path / "old.yaml")
    save_plan(old, root)
    for cell in old.cells:
        finish(root, cell.label)
    new = write_sweep(tmp_path, cases=[{**TINY["cases"][0], "set": ["attack.substitute_size=40"]}, TINY["cases"][1]])
    for against in (tmp_path / "old.yaml", "submitted"):
        code, out, err = sweep("plan", new, "--against", against, "--root", root)
        assert code == 0, err
        assert "rows: 0 come, 0 go, 4 stay" in out
        assert "cells: 3 come, 3 go, 6 stay (3 of those that go are finished)" in out
        assert "3 finished cells would be computed again" in out
        assert "attack.substitute_size 48 -> 40" in out
        assert "attack finetune" in out
        _, out, _ = sweep("plan", new, "--against", against, "--root", root, "--json")
        assert json.loads(out)["recomputed"][0]["settings"]["attack.substitute_size"] == {"old": 48, "new": 40}
    assert sweep("plan", new, "--against", "nowhere.yaml", "--root", root)[0] == 2
    assert sweep("plan", new, "--against", "submitted", "--cells", "--root", root)[0] == 2


@pytest.mark.slow
def test_run_computes_a_cell_here_as_it_was_submitted(tmp_path: Path) -> None:
    plan, root = tiny_plan(tmp_path, until="train", cases=[]), tmp_path / "store"
    save_plan(plan, root)
    path = write_sweep(tmp_path, until="train", cases=[], set=[*TINY["set"], "train.epochs=1"])  # an edit since then
    code, out, err = sweep("run", path, plan.cells[0].id[:6], "--root", root)
    assert (code, out.strip()) == (0, str(root / plan.cells[0].label)), err
    assert json.loads((root / plan.cells[0].label / "result.json").read_text())
    assert (root / "attempts" / f"{plan.cells[0].label}.0001.json").is_file()
    assert find_cell("train resnet8", path, [], root)[0].cells[0].id != plan.cells[0].id, "by its name it is the file's"
    write_sweep(tmp_path, until="train", cases=[])
    code, out, _ = sweep("run", path, " train  resnet8 ", "--root", root)  # it is done
    assert (code, out.strip()) == (0, str(root / plan.cells[0].label))
    assert not (root / "attempts" / f"{plan.cells[0].label}.0002.json").exists()


@pytest.mark.parametrize(
    ("cell", "words"), [("train/0", "no cell 'train/0'"), ("", "no cell ''"), ("verify/", "4 cells; name one: verify/")]
)
def test_a_cell_that_is_none_or_several_is_refused(cell: str, words: str, tmp_path: Path) -> None:
    code, _, err = sweep("run", write_sweep(tmp_path), cell, "--root", tmp_path / "store")
    assert code == 2
    assert words in err


def test_a_mistake_is_one_message_with_status_2(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, axes={"attak": ["finetune"]}, cases=None)
    code, out, err = sweep("submit", path, "--root", tmp_path / "store")
    assert (code, out) == (2, "")
    assert "attack" in err
    assert "Traceback" not in err
    assert not (tmp_path / "store").exists()


def test_without_slurm_submit_says_so_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    code, _, err = sweep("submit", write_sweep(tmp_path), "cluster=slurm", "--root", tmp_path / "store")
    assert code == 2
    assert "no Slurm here" in err
    assert "cluster=local" in err
    assert not (tmp_path / "store").exists()


def test_an_invalid_cell_is_found_before_the_first_submission(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, axes={"attack": ["finetune"], "attack.substitute_size": [48, 65]}, cases=None)
    code, _, err = sweep("submit", path, "--root", tmp_path / "store")
    assert code == 2
    assert "65" in err
    assert not (tmp_path / "store").exists()


def test_status_of_a_sweep_never_submitted_says_what_to_do(tmp_path: Path) -> None:
    code, _, err = sweep("status", write_sweep(tmp_path), "--root", tmp_path / "store")
    assert code == 2
    assert "rnet sweep submit" in err


def test_an_unreadable_store_is_named(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    save_plan(plan, tmp_path / "store")
    (tmp_path / "store" / "attempts").mkdir()
    (tmp_path / "store" / "attempts" / "train").write_text("not a folder")
    code, _, err = sweep("status", tmp_path / "tiny.yaml", "--root", tmp_path / "store")
    assert code == 2
    assert "attempts/train" in err


def test_the_snapshot_is_named_by_its_content_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = snapshot.take_snapshot(tmp_path)
    copied = first / "launch" / "sweep" / "clusters" / "snapshot.py"
    assert copied.read_bytes() == Path(snapshot.__file__).read_bytes()
    assert (first / "configs" / "config.yaml").is_file()
    assert not list(first.rglob("*.pyc"))
    assert snapshot.take_snapshot(tmp_path) == first
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == [first.name]
    changed = tmp_path / "configs"
    shutil.copytree(first / "configs", changed)
    (changed / "config.yaml").write_text("# changed\n")
    monkeypatch.setattr(snapshot, "config_folder", lambda: changed)
    assert snapshot.take_snapshot(tmp_path) != first


@pytest.mark.parametrize("path", OFFLINE, ids=lambda path: path.stem)
def test_the_sweeps_that_come_with_rnet_can_be_planned(path: Path, tmp_path: Path) -> None:
    code, out, err = sweep("plan", path, "--json", "--root", tmp_path)
    assert code == 0, err
    axes = yaml.safe_load(path.read_text())["axes"]
    rows = 1
    for values in axes.values():
        rows *= len(values)
    assert json.loads(out)["rows"] == rows
