"""`rnet sweep board`: what TensorBoard's own reader finds in the folder of a sweep."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from typer.testing import CliRunner

from launch.sweep.cli import sweep_app
from launch.sweep.show.board import FIRST, LAST, VERDICTS, write_board
from launch.sweep.show.study import study_of
from rnet.training.monitor import Monitor
from tests.launch.sweep.show.test_report import finished


def read(run: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, Any], dict[str, list[str]]]:
    """Curves, hyperparameters, and the columns of the table, as TensorBoard reads a run."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    curves = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    about = {
        tag: HParamsPluginData.FromString(content) for tag, content in events.PluginTagToContent("hparams").items()
    }
    start = about["_hparams_/session_start_info"].session_start_info.hparams
    values = {
        name: value.string_value if value.HasField("string_value") else value.number_value
        for name, value in start.items()
    }
    experiment = about["_hparams_/experiment"].experiment
    columns = {
        "axes": [column.name for column in experiment.hparam_infos],
        "metrics": [column.name.tag for column in experiment.metric_infos],
    }
    return curves, values, columns


def test_each_model_is_a_run_by_name_with_its_axes_its_curves_and_what_became_of_it(tmp_path: Path) -> None:
    plan, root = finished(tmp_path), tmp_path / "store"
    first = next(row for row in plan.rows if row.values["attack"] == "finetune")
    cell = plan.cells[first.cells["attack"]]
    with Monitor(root / cell.label, "x", 4, quiet=True) as monitor:
        for step in range(4):
            monitor.scalars(step, {"loss/total": 4.0 - step, "fidelity/accuracy": 0.5})
        monitor.hyperparameters({"attack": {"name": "finetune", "batch_size": 3}}, {"fidelity/accuracy": 0.5})
    command = ["board", str(tmp_path / "tiny.yaml"), "--root", str(root)]
    result = CliRunner().invoke(sweep_app, command)
    assert result.exit_code == 0, result.output
    board = root / "sweeps" / "tiny" / "tensorboard"
    assert f"tensorboard --logdir {board}" in result.stdout
    models = [cell for cell in plan.cells if cell.stage in ("train", "attack")]
    assert len(list(board.iterdir())) == len(models)
    curves, values, columns = read(board / "attack finetune seed=0")
    assert curves["loss/total"] == [(step, 4.0 - step) for step in range(4)]
    assert values == {"stage": "attack", "dataset": "digits", "model": "resnet8", "attack": "finetune", "seed": 0.0}
    assert {*columns["axes"]} == {*values}
    assert {"fidelity/accuracy", "fidelity/agreement", "score/ipguard/matching_rate", "score/zest/l1",
            "verdict/ipguard", "verdict/zest", "verdict/combined"} <= {*columns["metrics"]}  # fmt: skip
    assert "attack.batch_size" not in columns["axes"], "what the run itself says of its settings is passed over"
    assert abs(curves["score/ipguard/matching_rate"][-1][1] - 0.8) < 1e-6
    judged = study_of(plan, root).trials[plan.rows.index(first)].verdict
    assert curves["verdict/ipguard"][-1][1] == VERDICTS[judged]
    assert curves["fidelity/accuracy"] == [(step, 0.5) for step in range(4)], "its own curve, and no point beside it"
    other, values, same = read(board / "attack identity seed=1")
    assert abs(other["fidelity/accuracy"][-1][1] - 0.9) < 1e-6
    assert (values["attack"], values["seed"]) == ("identity", 1.0)
    assert same == columns
    negatives = [read(run) for run in board.iterdir() if "attack.seed" in run.name]
    assert negatives
    for curves, values, _ in negatives:
        assert values["attack"] == "independent"
        assert "score/ipguard/matching_rate" in curves


def test_the_board_is_completed_and_nothing_is_written_twice(tmp_path: Path) -> None:
    plan, root = finished(tmp_path), tmp_path / "store"
    board, count = write_board(plan, root)
    before = {path: path.stat().st_mtime_ns for path in board.rglob("*") if path.is_file()}
    (board / "attack of another version").mkdir()
    assert write_board(plan, root) == (board, count)
    assert {path: path.stat().st_mtime_ns for path in board.rglob("*") if path.is_file()} == before
    attacks = [cell for cell in plan.cells if cell.stage == "attack"]
    gone = next(cell for cell in attacks if plan.setting(cell, "attack")["name"] == "finetune")
    folder = root / gone.label
    (folder / "result.json").unlink()
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out.tfevents.1").touch()
    assert write_board(plan, root)[1] == count
    run = board / "attack finetune seed=0"
    assert {path.name for path in run.iterdir()} == {FIRST, "events.out.tfevents.1"}, "it runs again"
    assert (run / "events.out.tfevents.1").resolve() == (folder / "tensorboard" / "events.out.tfevents.1").resolve()
    shutil.rmtree(folder)
    assert write_board(plan, root)[1] == count - 1
    assert not run.exists()
    last = board / "attack identity seed=0" / LAST
    assert b"score/" in last.read_bytes()
    for result in (root / "verify").glob("*/result.json"):
        result.unlink()
    write_board(plan, root)
    assert b"score/" not in last.read_bytes(), "what is gone goes from the board, too"
