"""`rnet sweep` as people type it: what it prints, its exit statuses, and nothing written by looking."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

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


def test_status_shows_stages_as_a_table_and_as_json(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    save_plan(plan, tmp_path / "store")
    finish(tmp_path / "store", plan.cells[0].label)
    code, out, _ = sweep("status", tmp_path / "tiny.yaml", "--root", tmp_path / "store")
    assert code == 0
    assert "not submitted" in out
    _, out, _ = sweep("status", tmp_path / "tiny.yaml", "--root", tmp_path / "store", "--json")
    stages = json.loads(out)["stages"]
    assert stages["train"]["done"] == 1
    assert stages["verify"] == {"not submitted": 4, "cells": 4, "progress": None, "eta": None}


def test_an_unreadable_store_is_named(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    save_plan(plan, tmp_path / "store")
    (tmp_path / "store" / "attempts").mkdir()
    (tmp_path / "store" / "attempts" / "train").write_text("not a folder")
    code, _, err = sweep("status", tmp_path / "tiny.yaml", "--root", tmp_path / "store")
    assert code == 2
    assert "attempts/train" in err


@pytest.mark.parametrize("kind", ["markdown", "csv", "json"])
def test_the_report_has_a_line_for_every_row_finished_or_not(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "store"
    plan = tiny_plan(tmp_path, set=["negatives=2"])
    save_plan(plan, root)
    for place, cell in enumerate(plan.cells):
        if cell.stage == "attack":
            finish(root, cell.label, json.dumps({"accuracy": 0.9, "drop": 0.01, "agreement": 0.95}))
        elif cell.stage == "verify" and place != plan.rows[3].cells["verify"]:
            suspect = place in {row.cells["verify"] for row in plan.rows}
            score = 0.8 if suspect else 0.1 + place / 1000
            finish(
                root, cell.label, json.dumps({"scores": {"ipguard/matching_rate": score, "random/agreement": score}})
            )
        else:
            finish(root, cell.label)
    (root / plan.cells[plan.rows[3].cells["verify"]].label / "result.json").unlink()
    code, out, _ = sweep("report", tmp_path / "tiny.yaml", "--root", root, "--format", kind)
    assert code == 1  # a row is missing
    if kind == "markdown":
        assert len(out.splitlines()) == 2 + 4
        return
    lines = json.loads(out) if kind == "json" else list(csv.DictReader(io.StringIO(out)))
    assert [line["attack"] for line in lines] == ["identity", "identity", "finetune", "finetune"]
    assert [line["verdict"] or None for line in lines] == ["derived", "derived", "derived", None]
    assert [line["score"] and float(line["score"]) for line in lines[:3]] == [0.8, 0.8, 0.8]
    assert {str(line["negatives"]) for line in lines[:3]} == {"2"}
    assert float(lines[3]["accuracy"]) == 0.9


@pytest.mark.parametrize("kind", ["markdown", "csv", "json"])
def test_the_report_separates_derived_suspects_from_negatives_over_the_seeds(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "store"
    axes = {"attack": ["identity", "finetune"], "model": ["resnet8"], "defense": ["ipguard", "zest"], "seed": [0, 1]}
    plan = tiny_plan(tmp_path, set=["dataset=digits", "negatives=5"], axes=axes, cases=None)
    save_plan(plan, root)
    derived = {row.cells["attack"]: row.values["attack"] == "finetune" for row in plan.rows}
    negatives = {place for row in plan.rows for place in row.negatives}
    for place, cell in enumerate(plan.cells):
        result: dict[str, Any] = {"derived": derived.get(place, False)}
        if cell.stage == "verify":
            rate = (place % 7) / 10 if place in negatives else 0.8
            distances = dict.fromkeys(("zest/l1", "zest/l2", "zest/linf", "zest/cosine"), 1 - rate)
            result = {"scores": {"ipguard/matching_rate": rate, **distances}}
            if "defense=ipguard" not in cell.overrides:
                result["scores"].pop("ipguard/matching_rate")
        finish(root, cell.label, json.dumps(result))
    code, out, _ = sweep("report", tmp_path / "tiny.yaml", "--root", root, "--format", kind, "--separation")
    assert code == 0
    if kind == "markdown":
        assert "| attack | model | defense | metric | positives | negatives | auc | auc_low |" in out
        _, whole, _ = sweep("report", tmp_path / "tiny.yaml", "--root", root)
        assert whole.endswith("\n\n" + out)
        return
    lines = json.loads(out) if kind == "json" else list(csv.DictReader(io.StringIO(out)))
    assert [line["metric"] for line in lines] == [
        "ipguard/matching_rate",
        *(f"zest/{m}" for m in ("l1", "l2", "linf", "cosine")),
    ]
    assert {line["attack"] for line in lines} == {"finetune"}  # the identity's results say that it is not derived
    assert {(int(line["positives"]), int(line["negatives"])) for line in lines} == {(2, 10)}
    assert {float(line["auc"]) for line in lines} == {1.0}
    assert "seed" not in lines[0]
    _, out, _ = sweep("report", tmp_path / "tiny.yaml", "--root", root, "--format", "json")
    shown = {line["metric"]: line["normalised"] for line in json.loads(out)}
    assert shown["ipguard/matching_rate"] is None
    assert 0 < shown["zest/l1"] < 1


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    save_plan(tiny_plan(tmp_path), tmp_path / "store")
    code, _, err = sweep("report", tmp_path / "tiny.yaml", "--root", tmp_path / "store", "--format", "xml")
    assert code == 2
    assert "markdown" in err


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
