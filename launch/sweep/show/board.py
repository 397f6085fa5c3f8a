"""One TensorBoard folder for a sweep: a run for each model, by name, and HPARAMS that compare them.

    ROOT/sweeps/NAME/tensorboard/<name of a train or attack cell>/
        events.out.tfevents.0000000000.sweep     the values of its axes
        events.out.tfevents....                  links to its curves, which grow while it runs
        events.out.tfevents.9999999999.sweep     what became of it: fidelity, scores, verdicts

TensorBoard reads the files of a run in the order of their names, and believes the first that says what the run's
hyperparameters are. So a cell's own table of all its settings is passed over.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.sweep.plan.names import cell_names
from launch.sweep.plan.plan import Plan
from launch.sweep.show.axes import own_axes
from launch.sweep.show.study import study_of
from launch.sweep.states import StoreState
from rnet.report.records import Study
from rnet.stages.store import read_result
from rnet.storage.files import make_folder, unwritable, write_atomic

SHOWN = ("train", "attack")
"""Stages that have curves."""
FIRST, LAST = "events.out.tfevents.0000000000.sweep", "events.out.tfevents.9999999999.sweep"
FIDELITY = ("accuracy", "agreement")
VERDICTS = {"derived": 1.0, "undecided": 0.5, "independent": 0.0}
"""A verdict as a number, for columns that are sorted and lines that are drawn."""
_LONGEST = 180
"""Characters of a run's name; the file system allows 255 bytes."""


@dataclass
class _Run:
    """What the board says of one cell."""

    folder: str
    axes: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    curves: list[Path] = field(default_factory=list)
    end: str = ""
    """done or failed, once nothing goes on by itself."""


def write_board(plan: Plan, root: Path) -> tuple[Path, int]:
    """Writes or completes the folder; returns it, and how many runs it has. What is not in the plan goes.

    Only what has changed is written, so that a TensorBoard that shows it follows. Raises UserError.
    """
    board = root / "sweeps" / plan.name / "tensorboard"
    runs = _runs(plan, root)
    experiment = _experiment(runs)
    try:
        make_folder(board)
        for name in set(os.listdir(board)) - {run.folder for run in runs}:
            shutil.rmtree(board / name, ignore_errors=True)
        for run in runs:
            _write(board / run.folder, run, experiment)
    except OSError as error:
        raise unwritable(board, error) from None
    return board, len(runs)


def _runs(plan: Plan, root: Path) -> list[_Run]:
    """The cells that have started, with what is known of them."""
    names, axes, states = cell_names(plan), own_axes(plan), StoreState(plan, root).cells
    found: dict[int, _Run] = {}
    for index, cell in enumerate(plan.cells):
        folder = plan.folder(root, cell)
        if cell.stage in SHOWN and folder.is_dir():
            run = _Run(_as_file(names[index], cell.id), {"stage": cell.stage} | axes[index])
            with suppress(FileNotFoundError):
                run.curves = sorted((folder / "tensorboard").iterdir())
            result = read_result(folder) or {}
            state = states[index]
            run.end = state.state if state.state in ("done", "failed") else ""
            run.metrics |= {f"fidelity/{key}": float(result[key]) for key in FIDELITY if key in result}
            found[index] = run
    _judge(plan, study_of(plan, root), found)
    return list(found.values())


def _judge(plan: Plan, study: Study, runs: Mapping[int, _Run]) -> None:
    """Adds scores and verdicts to the suspects' runs."""
    ids = {cell.id: index for index, cell in enumerate(plan.cells) if cell.stage == "attack"}
    for row, trial in zip(plan.rows, study.trials, strict=True):
        run = runs.get(row.cells.get("attack", -1))
        if run is None or not trial.scores:
            continue
        also = _also(row.values, run)
        for score in trial.scores:
            run.metrics[f"score/{score.name}{also}"] = score.value
        if trial.verdict in VERDICTS:
            run.metrics[f"verdict/{trial.scores[0].name.partition('/')[0]}{also}"] = VERDICTS[trial.verdict]
        if trial.combined and trial.combined.get("verdict") in VERDICTS:
            run.metrics["verdict/combined"] = VERDICTS[trial.combined["verdict"]]
    for negative in study.negatives:
        run = runs.get(ids.get(negative.suspect_id, -1))
        if run is not None:
            also = _also(negative.axes, run)
            run.metrics |= {f"score/{name}{also}": value for name, value in negative.scores.items()}


def _also(axes: Mapping[str, Any], run: _Run) -> str:
    """What else tells tests of the same suspect apart, for the names of their metrics."""
    return "".join(f" {axis}={value}" for axis, value in axes.items() if axis not in (*run.axes, "defense"))


def _as_file(name: str, cell_id: str) -> str:
    """A cell's name as a folder's; with its id where something had to be left out."""
    made = re.sub(r"[^\w.=,+ -]", "_", name)[:_LONGEST]
    return made if made == name else f"{made} {cell_id}"


def _write(folder: Path, run: _Run, experiment: Any) -> None:
    """Makes a run's folder what it should be."""
    make_folder(folder)
    links = {path.name: os.path.relpath(path, folder) for path in run.curves}
    wanted = {FIRST, *links, *((LAST,) if run.end else ())}
    for name in set(os.listdir(folder)) - wanted:
        (folder / name).unlink()
    for name, target in links.items():
        if not (folder / name).is_symlink() or os.readlink(folder / name) != target:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)
    _replace(folder / FIRST, [experiment, _beginning(run)])
    if run.end:
        curves = {name for name in run.metrics if name.startswith("fidelity/")} if run.curves else set()
        points = [_point(name, value) for name, value in run.metrics.items() if name not in curves]
        _replace(folder / LAST, [_ending(run), *points])


def _replace(path: Path, values: Iterable[Any]) -> None:
    """Writes an event file that says these values, unless it does already."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    summary = Summary(value=list(values))
    with suppress(OSError):
        if Event(summary=summary).SerializeToString(deterministic=True) in path.read_bytes():  # with its length
            return
    data = io.BytesIO()
    writer = RecordWriter(data)
    for event in (
        Event(wall_time=time.time(), file_version="brain.Event:2"),
        Event(wall_time=time.time(), summary=summary),
    ):
        writer.write(event.SerializeToString(deterministic=True))
    write_atomic(path, data.getvalue())


def _experiment(runs: Iterable[_Run]) -> Any:
    """Which columns HPARAMS has; the same in all runs, for TensorBoard takes it from any of them."""
    from tensorboard.plugins.hparams import api_pb2, metadata

    values: dict[str, dict[Any, None]] = {}
    metrics: set[str] = set()
    for run in runs:
        metrics |= run.metrics.keys()
        for axis, value in run.axes.items():
            values.setdefault(axis, {})[value] = None
    columns = []
    for axis, listed in values.items():
        numbers = all(_number(value) is not None for value in listed)
        column = api_pb2.HParamInfo(name=axis, type=api_pb2.DATA_TYPE_FLOAT64 if numbers else api_pb2.DATA_TYPE_STRING)
        for value in listed:
            column.domain_discrete.values.add(
                **({"number_value": _number(value)} if numbers else {"string_value": str(value)})
            )
        columns.append(column)
    shown = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in sorted(metrics, key=_place)]
    experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=shown)
    return _plugin(metadata.EXPERIMENT_TAG, experiment=experiment)


def _place(metric: str) -> tuple[int, str]:
    """Where a column stands; TensorBoard shows five unless it is told to show more."""
    return next(
        place for place, group in enumerate(("fidelity", "verdict", "score", "")) if metric.startswith(group)
    ), metric


def _beginning(run: _Run) -> Any:
    """The values of a run's axes."""
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

    about = SessionStartInfo()
    for axis, value in run.axes.items():
        if (number := _number(value)) is None:
            about.hparams[axis].string_value = str(value)
        else:
            about.hparams[axis].number_value = number
    return _plugin(metadata.SESSION_START_INFO_TAG, session_start_info=about)


def _ending(run: _Run) -> Any:
    """Whether a run succeeded, by which HPARAMS can leave out those that did not."""
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

    status = api_pb2.STATUS_SUCCESS if run.end == "done" else api_pb2.STATUS_FAILURE
    return _plugin(metadata.SESSION_END_INFO_TAG, session_end_info=SessionEndInfo(status=status))


def _plugin(tag: str, **content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    about = metadata.create_summary_metadata(data)
    about.plugin_data.content = data.SerializeToString(deterministic=True)  # the same bytes whenever it says the same
    return Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)


def _point(name: str, value: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=name, simple_value=value)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
