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
from launch.sweep.plan.plan import save_plan
from tests.launch.sweep.sweeps import finish, tiny_plan, write_sweep

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


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
    assert [array["stage"] for array in found["arrays"]] == ["attack", "fingerprint", "verify"]


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


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_come_with_rnet_can_be_planned(path: Path, tmp_path: Path) -> None:
    code, out, err = sweep("plan", path, "--json", "--root", tmp_path)
    assert code == 0, err
    axes = yaml.safe_load(path.read_text())["axes"]
    rows = 1
    for values in axes.values():
        rows *= len(values)
    assert json.loads(out)["rows"] == rows
