"""`rnet sweep clean`: what goes, what stays, and why."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.sweep.clean import clean
from launch.sweep.cli import sweep_app
from launch.sweep.plan.plan import Plan, save_plan
from launch.sweep.records import submissions
from launch.sweep.records.submissions import Submission
from rnet.config.documents import run_from_dict, to_yaml
from rnet.errors import UserError
from rnet.stages.graph import STAGE_NAMES, document
from tests.launch.sweep.sweeps import GONE, HERE, finish, started, submitted, tiny_plan

AXES: dict[str, Any] = {"attack": ["identity"], "defense": ["ipguard"], "seed": [0]}
DAY = 86_400.0


def plan_of(folder: Path, seed: int, name: str = "tiny") -> Plan:
    return tiny_plan(folder, axes=AXES | {"seed": [seed]}, cases=None, name=name)


def computed(root: Path, plan: Plan) -> list[str]:
    """Every cell of the plan in the store, with its document; returns their labels."""
    for cell in plan.cells:
        finish(root, cell.label)
        config = run_from_dict(plan.configuration(cell))
        (root / cell.label / "config.yaml").write_text(to_yaml(document(cell.stage, config)))
    return [cell.label for cell in plan.cells]


def recorded(root: Path, plan: Plan, job: str, snapshot: str | None = None) -> Submission:
    """A submission of all cells with a log, a snapshot of the code, and an attempt of the first cell."""
    record = submitted(root, plan, job=job, snapshot=snapshot)
    for folder in (root / "jobs" / record.token, root / "snapshots" / str(snapshot)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_text("x")
    started(root, plan, 0, record, "done")
    return record


def aged(root: Path, days: float, *labels: str) -> None:
    """Lets all files below these look so many days old."""
    moment = time.time() - days * DAY
    for label in labels or ("",):
        for path in (root / label).rglob("*"):
            os.utime(path, (moment, moment))


def labels(root: Path, days: float = 30.0) -> set[str]:
    return {piece.label for piece in clean(root, days=days).pieces}


def test_what_no_sweep_refers_to_goes_with_its_records_and_only_with_yes(tmp_path: Path) -> None:
    root = tmp_path / "store"
    old, new = plan_of(tmp_path, 0), plan_of(tmp_path, 1)
    first, second = recorded(root, old, GONE, "a" * 16), recorded(root, new, GONE, "b" * 16)
    ours = computed(root, new)
    theirs = sorted(set(computed(root, old)) - set(ours))
    save_plan(new, root)
    aged(root, 40)
    before = {path: path.stat().st_size for path in root.rglob("*") if path.is_file()}
    command = ["clean", "--root", str(root), "--json"]
    shown = json.loads(CliRunner().invoke(sweep_app, command).stdout)
    gone = {piece["label"] for piece in shown["pieces"]}
    assert {label for label in gone if label.partition("/")[0] in STAGE_NAMES} == {*theirs}
    assert f"attempts/{old.cells[0].label}" in gone
    assert f"attempts/{new.cells[0].label}" not in gone
    assert f"submissions/{first.token}" in gone
    assert f"submissions/{second.token}" in gone, "it has ended, and all of its cells are done"
    assert f"snapshots/{'a' * 16}" in gone
    assert f"snapshots/{'b' * 16}" not in gone, "an attempt that is kept names it"
    assert shown["bytes"] == sum(piece["bytes"] for piece in shown["pieces"]) > 0
    assert all(abs(piece["age"] - 40 * DAY) < DAY for piece in shown["pieces"])
    assert before == {path: path.stat().st_size for path in root.rglob("*") if path.is_file() and path.name != ".lock"}
    assert CliRunner().invoke(sweep_app, [*command, "--yes"]).exit_code == 0
    assert not any((root / label).exists() for label in gone)
    assert all((root / label / "result.json").exists() for label in ours)
    assert labels(root, 0) == set()


def test_what_was_touched_lately_stays_with_its_parents(tmp_path: Path) -> None:
    root = tmp_path / "store"
    plan = plan_of(tmp_path, 0)
    train, attack, fingerprint, verify = computed(root, plan)
    aged(root, 40)
    assert labels(root) == {train, attack, fingerprint, verify}
    aged(root, 10, attack)
    assert labels(root) == {fingerprint, verify}, "an attack's victim is kept, too"
    assert labels(root, 5) == {train, attack, fingerprint, verify}
    aged(root, 0.01, verify)  # a quarter of an hour ago
    assert labels(root, 0) == set()


def test_what_is_under_way_stays(tmp_path: Path) -> None:
    root = tmp_path / "store"
    plan = plan_of(tmp_path, 0)
    record = recorded(root, plan, HERE)
    train, attack, fingerprint, verify = computed(root, plan)
    aged(root, 40)
    found = clean(root, days=30)
    assert [piece for piece in found.pieces if piece.kind != "snapshots"] == []
    assert found.busy == sorted([train, attack, fingerprint, verify])
    record.job = GONE
    submissions.save(root, record)
    aged(root, 40)
    assert {train, attack, fingerprint, verify} < labels(root)
    (root / attack / "lock").touch()
    aged(root, 40)
    with (root / attack / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clean(root, days=30, remove=True)
    assert [(root / label).exists() for label in (train, attack, fingerprint, verify)] == [True, True, False, False]


def test_the_record_of_a_cell_that_failed_stays_as_long_as_a_sweep_wants_it(tmp_path: Path) -> None:
    root = tmp_path / "store"
    plan = plan_of(tmp_path, 0)
    save_plan(plan, root)
    first, second = recorded(root, plan, GONE), recorded(root, plan, GONE)
    aged(root, 40)
    assert labels(root) >= {f"submissions/{first.token}"}, "a newer one has the same cells"
    assert f"submissions/{second.token}" not in labels(root)


def test_a_plan_that_cannot_be_read_stops_everything(tmp_path: Path) -> None:
    root = tmp_path / "store"
    computed(root, plan_of(tmp_path, 0))
    aged(root, 40)
    (root / "sweeps").mkdir()
    (root / "sweeps" / "mine.json").write_text("{}")
    with pytest.raises(UserError, match=r"mine\.json is no plan"):
        clean(root, days=30, remove=True)
    assert (root / "train").is_dir()
    result = CliRunner().invoke(sweep_app, ["clean", "--root", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert "no store" in result.stderr
