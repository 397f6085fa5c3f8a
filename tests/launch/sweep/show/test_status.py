"""`rnet sweep status`: names, progress, failures told once, exit statuses, and what the file says by now."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.sweep.cli import sweep_app
from launch.sweep.plan.plan import Plan, save_plan
from launch.sweep.show import screen
from launch.sweep.show.current import current_plan, differences
from tests.launch.sweep.sweeps import GONE, HERE, TINY, finish, started, submitted, tiny_plan, write_sweep

SEEDS = {"dataset": ["digits"], "model": ["resnet8"], "attack": ["identity"], "seed": [0, 1, 2]}


def status(folder: Path, *arguments: object) -> tuple[int, str]:
    """Exit status and standard output of the command on the tiny sweep."""
    whole = ["status", folder / "tiny.yaml", "--root", folder / "store", *arguments]
    result = CliRunner().invoke(sweep_app, [str(argument) for argument in whole])
    return result.exit_code, result.stdout + result.stderr


def planned(folder: Path, *overrides: str, **changes: Any) -> Plan:
    """The tiny sweep's plan, in the store."""
    plan = tiny_plan(folder, *overrides, **changes)
    save_plan(plan, folder / "store")
    return plan


def logged(folder: Path, plan: Plan, index: int, steps: Sequence[int], total: int, *, each: float) -> None:
    """A running cell that has logged some steps, `each` seconds apart.

    The last one lies in the future, so that the time until status is asked takes nothing off what is left.
    """
    cell = folder / "store" / plan.cells[index].label
    cell.mkdir(parents=True)
    (cell / "status.json").write_text(json.dumps({"state": "running", "step": 0, "total": total}))
    last = time.time() + 3600
    lines = [json.dumps({"step": step, "time": last - each * (steps[-1] - step)}) for step in steps]
    (cell / "log.jsonl").write_text("\n".join([*lines, '{"step": 1, "ti']))


def test_the_summary_has_states_steps_estimates_names_and_failures_with_log_and_command(tmp_path: Path) -> None:
    plan, root = planned(tmp_path), tmp_path / "store"
    record = submitted(root, plan)
    train, attack, fingerprint = (
        [index for index, cell in enumerate(plan.cells) if cell.stage == stage]
        for stage in ("train", "attack", "fingerprint")
    )
    started(root, plan, train[0], record, "done")
    finish(tmp_path / "store", plan.cells[train[0]].label)
    started(root, plan, attack[1], record)
    logged(tmp_path, plan, attack[1], [0, 10, 25], 100, each=2.0)
    started(root, plan, fingerprint[0], record, "failed", error="first line\nlast line")
    log = tmp_path / "store" / "jobs" / record.token / f"{fingerprint[0]}.log"
    log.parent.mkdir(parents=True)
    log.touch()
    code, out = status(tmp_path, "--json")
    found = json.loads(out)
    assert code == 3
    assert found["total"] == {"pending": 6, "running": 1, "done": 1, "failed": 1, "cells": 9}
    assert found["stages"]["train"] == {"done": 1, "cells": 1, "progress": 1.0, "eta": 0.0}
    assert found["stages"]["attack"]["progress"] == 0.125, "a quarter of one of two"
    assert found["stages"]["attack"]["eta"] == pytest.approx(150 + 200), "its own rest, and all of the other"
    assert found["eta_is_lowest"], "nothing is known of verify"
    label = plan.cells[fingerprint[0]].label
    command = f"rnet sweep run {tmp_path}/tiny.yaml {label} --root {tmp_path}/store"
    assert found["failures"] == [
        {"cell": label, "name": "fingerprint ipguard", "stage": "fingerprint", "state": "failed", "attempt": 1,
         "task": None, "error": "last line", "log": str(log), "command": command}
    ]  # fmt: skip
    running = next(cell for cell in found["list"] if cell["state"] == "running")
    assert (running["name"], running["step"], running["total"]) == ("attack finetune", 25, 100)
    code, out = status(tmp_path, "--cells")
    assert "1 cell failed: last line" in out
    assert str(log.name) in out
    assert "attack finetune" in out
    assert "25/100" in out


def test_errors_that_differ_in_numbers_and_ids_are_told_once(tmp_path: Path) -> None:
    plan, root = planned(tmp_path), tmp_path / "store"
    record = submitted(root, plan)
    verify = [index for index, cell in enumerate(plan.cells) if cell.stage == "verify"]
    for number, index in enumerate(verify[:3]):
        started(root, plan, index, record, "failed", error=f"out of memory: {number}.5 GiB at {index:016x}")
    started(root, plan, verify[3], record, "failed", error="no such file")
    code, out = status(tmp_path)
    assert code == 3
    assert "3 cells failed: out of memory: 0.5 GiB" in out
    assert "e.g. verify ipguard attack=identity" in out
    assert "1 cell failed: no such file" in out
    assert out.count("GiB") == 1


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["done"] * 9, 0),
        (["done"] * 8 + ["failed"], 1),
        (["done"] * 8 + ["lost"], 1),
        (["failed"] * 8 + ["running"], 3),
        (["done"] * 8 + [None], 4),
        ([None] * 8 + ["failed"], 1),
    ],
)
def test_the_exit_status_says_whether_to_wait_or_to_look(
    states: list[str | None], expected: int, tmp_path: Path
) -> None:
    plan, root = planned(tmp_path), tmp_path / "store"
    handed_out = [index for index, state in enumerate(states) if state]
    record = submitted(root, plan, handed_out, job=HERE if "running" in states else GONE)
    for index, state in enumerate(states):
        if state == "done":
            finish(tmp_path / "store", plan.cells[index].label)
        elif state == "failed":
            started(root, plan, index, record, "failed", error="x")
        elif state == "running":
            started(root, plan, index, record)
    code, out = status(tmp_path)
    assert code == expected, out


def test_cells_are_counted_by_the_values_of_axes(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    for cell in plan.cells:
        if cell.stage == "attack" and plan.setting(cell, "attack")["name"] == "finetune":
            finish(tmp_path / "store", cell.label)
    code, out = status(tmp_path, "--by", "attack", "--json")
    assert code == 4
    assert json.loads(out)["groups"] == [
        {"values": {"attack": "-"}, "not submitted": 3, "cells": 3},
        {"values": {"attack": "identity"}, "not submitted": 3, "cells": 3},
        {"values": {"attack": "finetune"}, "not submitted": 2, "done": 1, "cells": 3},
    ]
    code, out = status(tmp_path, "--by", "atack")
    assert code == 2
    assert "--by" in out
    assert "attack" in out


@pytest.mark.parametrize(
    ("submitted_as", "now", "arguments", "expected"),
    [
        ({}, {}, [], []),
        ({}, {"resources": {"default": {"cpus": 2}}, "cluster": "dev"}, [], []),
        ({}, {"axes": SEEDS | {"seed": [0, 1]}}, [], ["1 row was submitted that", "seed=2", "tiny.yaml has changed"]),
        ({}, {"axes": SEEDS | {"seed": [0, 1, 2, 3, 4]}}, [], ["2 rows are in it that were not submitted", "seed=3"]),
        ({}, {"set": ["train.epochs=8"]}, [], ["3 rows have other settings", "train.epochs 2 -> 8 (3 rows)"]),
        ({}, {}, ["axes.seed=[7]"], ["submitted without these changes", "this is", "with axes.seed=[7]"]),
    ],
)  # fmt: skip
def test_status_and_report_follow_the_file_and_say_what_changed_since_it_was_submitted(
    submitted_as: dict[str, Any], now: dict[str, Any], arguments: list[str], expected: list[str], tmp_path: Path
) -> None:
    base = {"axes": SEEDS, "until": "attack", "cases": None, "set": ["train.epochs=2"]}
    planned(tmp_path, **(base | submitted_as))
    path = write_sweep(tmp_path, **(base | now))
    found = current_plan(path, arguments, tmp_path / "store")
    said = " ".join(found.changes)
    for words in expected:
        assert words in said
    assert bool(found.changes) == bool(expected)
    code, out = status(tmp_path, *arguments)
    assert code == 4
    assert f"{len(found.plan.rows)} row" in out
    whole = ["report", path, "--root", tmp_path / "store", "--format", "csv", *arguments]
    result = CliRunner().invoke(sweep_app, [str(argument) for argument in whole])
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1 + len(found.plan.rows)
    assert result.stdout.count("not submitted") == len(found.plan.rows)
    assert all(line in result.stderr for line in found.changes)


def test_other_negatives_are_a_change(tmp_path: Path) -> None:
    axes = {"attack": ["identity"], "defense": ["random"]}
    one, two = (tiny_plan(tmp_path, axes=axes, cases=None, set=[*TINY["set"], f"negatives={n}"]) for n in (1, 2))
    assert differences(one, one, tmp_path / "tiny.yaml") == []
    assert differences(one, two, tmp_path / "tiny.yaml")[1:] == ["1 row has other negatives than submitted"]


def test_the_store_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    planned(tmp_path, until="train", cases=None)
    result = CliRunner().invoke(sweep_app, ["status", str(tmp_path / "tiny.yaml"), "--root=~/store"])
    assert result.exit_code == 4, result.output


def test_an_override_at_submission_is_told_and_shown_with_the_same_override(tmp_path: Path) -> None:
    base: dict[str, Any] = {"axes": SEEDS, "until": "attack", "cases": None}
    planned(tmp_path, "axes.seed=[0,2]", "cluster=dev", **base)
    code, out = status(tmp_path)
    assert code == 4
    flat = " ".join(out.split())
    assert "tiny was submitted with axes.seed=[0,2]" in flat
    assert "1 row is in it that was not submitted, e.g. seed=1" in flat
    assert "3 rows" in flat
    _, out = status(tmp_path, "axes.seed=[0,2]")
    assert "2 rows" in out
    assert "submitted with" not in out


def test_watching_into_a_file_writes_a_line_for_each_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, path, root = planned(tmp_path), tmp_path / "tiny.yaml", tmp_path / "store"
    submitted(root, plan)
    rounds = iter(range(len(plan.cells) + 1))

    def sleep(_: float) -> None:
        if (number := next(rounds)) % 2:
            finish(root, plan.cells[number].label)
            finish(root, plan.cells[number - 1].label)
        if number == len(plan.cells) - 1:
            finish(root, plan.cells[number].label)

    found = screen.watch(lambda known: current_plan(path, [], root, None, known), sleep=sleep)
    assert found["done"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "; " in line]
    assert [line.partition("; ")[2] for line in lines] == [
        "9 pending", "7 pending, 2 done", "5 pending, 4 done", "3 pending, 6 done", "1 pending, 8 done", "9 done"
    ]  # fmt: skip
