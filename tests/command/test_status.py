"""`rnet status` says how far a run is, what is left, and whether it still logs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rnet.command.status import show_status
from rnet.storage.json_files import write_information


def stage(root: Path, status: dict[str, Any], steps: list[int], *, seconds_a_step: float, ago: float) -> None:
    """A stage that logged these steps, the last one so many seconds ago."""
    folder = root / "attack" / "0123456789abcdef"
    folder.mkdir(parents=True)
    write_information(folder / "status.json", status)
    lines = [
        {"step": step, "time": time.time() - ago - (steps[-1] - step) * seconds_a_step, "loss/total": step / 100}
        for step in steps
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')


def shown(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    show_status(root, [], as_json=True)
    (found,) = json.loads(capsys.readouterr().out)["stages"]
    return found


def test_a_running_stage_shows_how_far_it_is_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"importing": 8.04, "reading data": 0.31, "first step": 2.5, "total": 12.0}
    status = {"state": "running", "step": 30, "total": 200, "startup": parts}
    stage(tmp_path, status, [0, 10, 20, 30, 40, 50], seconds_a_step=2.0, ago=4)
    found = shown(tmp_path, capsys)
    assert found["progress"] == "50/200 (25%)"
    assert found["left"] == "5 min"
    assert found["logged"] in ("4 s ago", "5 s ago")
    assert found["loss"] == 0.5
    assert found["startup"] == "first step after 12 s (importing 8.0 s, reading data 0.3 s, first step 2.5 s)"


@pytest.mark.parametrize("state", ["preempted", "failed"])
def test_a_stage_that_does_not_run_has_no_time_left(
    state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(tmp_path, {"state": state, "step": 30, "total": 200}, [0, 10, 20], seconds_a_step=2.0, ago=4)
    found = shown(tmp_path, capsys)
    assert found["progress"] == "30/200 (15%)"
    assert not {"left", "logged"} & found.keys()
