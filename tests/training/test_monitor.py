"""What the monitor writes is read back: events by TensorBoard's own reader, the log as JSON, progress as text."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from rnet.training.monitor import Monitor, NullMonitor, progress, startup
from rnet.training.monitor.pictures import side_by_side


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log without its times."""
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in found]


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def curve(accumulator: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def silent(folder: Path | None, **options: Any) -> Monitor:
    return Monitor(folder, "run", 10, quiet=True, **options)


def age(folder: Path) -> None:
    """Puts the event files an hour back: TensorBoard orders files by the second in their name."""
    for path in (folder / "tensorboard").glob("events*"):
        parts = path.name.split(".")
        parts[3] = str(int(parts[3]) - 3600)
        path.rename(path.with_name(".".join(parts)))


def train(monitor: Monitor, first: int, end: int) -> None:
    for step in range(first, end):
        monitor.scalars(step, {"loss/total": 1 / (step + 1), "lr": 0.5})
        if step % 2:
            monitor.scalars(step, {"accuracy/test": float(step)})


# ---------------------------------------------------------------- TensorBoard


def test_scalars_are_read_back_with_name_step_and_value(tmp_path: Path) -> None:
    with silent(tmp_path) as monitor:
        train(monitor, 0, 4)
    accumulator = events(tmp_path)
    assert set(accumulator.Tags()["scalars"]) == {"loss/total", "lr", "accuracy/test"}
    assert curve(accumulator, "loss/total") == [(step, pytest.approx(1 / (step + 1))) for step in range(4)]
    assert curve(accumulator, "accuracy/test") == [(1, 1.0), (3, 3.0)]


def test_curves_and_log_of_an_interrupted_run_are_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with silent(whole) as monitor:
        train(monitor, 0, 9)
    killed = silent(broken)
    train(killed, 0, 7)
    killed.flush()
    age(broken)
    with silent(broken, start_step=5) as resumed:
        train(resumed, 5, 9)
    assert lines(broken) == lines(whole)
    for name in ("loss/total", "lr", "accuracy/test"):
        assert curve(events(broken), name) == curve(events(whole), name)
    killed.close()


def test_a_run_that_starts_over_hides_its_first_attempt(tmp_path: Path) -> None:
    with silent(tmp_path) as monitor:
        monitor.scalars(0, {"loss": 1.0, "only/then": 2.0})
    age(tmp_path)
    with silent(tmp_path) as monitor:
        monitor.scalars(0, {"loss": 3.0})
    assert lines(tmp_path) == [{"step": 0, "loss": 3.0}]
    assert curve(events(tmp_path), "loss") == [(0, 3.0)]


@pytest.mark.parametrize("shape", [(5, 7, 3), (3, 5, 7), (5, 7), (1, 5, 7), (5, 7, 4)])
def test_pictures_of_every_layout_keep_their_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    with silent(tmp_path) as monitor:
        monitor.image(3, "boundary", torch.from_numpy(pixels) if len(shape) == 3 else pixels)
    (event,) = events(tmp_path).Images("boundary")
    decoded = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    if shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, 2)
    wanted = pixels if pixels.ndim == 3 else pixels[:, :, None]
    assert event.step == 3
    assert (decoded.reshape(5, 7, -1)[:, :, : wanted.shape[2]] == wanted).all()


def test_eight_images_at_most_become_one_picture_pixel_by_pixel() -> None:
    x_BCHW = torch.arange(20).div(40).view(20, 1, 1, 1).expand(20, 1, 16, 16)
    picture = side_by_side(x_BCHW)
    assert (picture.dtype, tuple(picture.shape)) == (torch.uint8, (2 * 68 + 4, 4 * 68 + 4, 3))
    centres = [int(picture[36 + 68 * (i // 4), 36 + 68 * (i % 4), 0]) for i in range(8)]
    assert centres == [round(255 * i / 40) for i in range(8)]
    assert (picture[:, 0] == 255).all()


def test_a_picture_that_is_not_bytes_or_not_a_picture_is_refused(tmp_path: Path) -> None:
    with silent(tmp_path) as monitor:
        with pytest.raises(TypeError, match="'map' has dtype float64"):
            monitor.image(0, "map", np.zeros((4, 4, 3)))
        with pytest.raises(ValueError, match=r"'map' has shape \(2, 4, 5\)"):
            monitor.image(0, "map", np.zeros((2, 4, 5), dtype=np.uint8))


def test_text_is_read_back(tmp_path: Path) -> None:
    with silent(tmp_path) as monitor:
        monitor.text(2, "config", "attack: **removalnet**")
    (event,) = events(tmp_path).Tensors("config/text_summary")
    assert (event.step, event.tensor_proto.string_val[0]) == (2, b"attack: **removalnet**")


def test_hyperparameters_are_flat_names_beside_their_metrics_in_the_same_event_file(tmp_path: Path) -> None:
    with silent(tmp_path) as monitor:
        monitor.scalars(9, {"accuracy/test": 0.5})
        settings = {"attack": {"rho": 0.02, "name": "removalnet", "layers": [1, 2]}, "flip": True, "limit": None}
        monitor.hyperparameters(settings, {"accuracy/test": 0.5, "zest/l2": 3.0})
    assert len(list((tmp_path / "tensorboard").rglob("events*"))) == 1
    accumulator = events(tmp_path)
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: found[name].WhichOneof("kind") for name in found} == {
        "attack.rho": "number_value",
        "attack.name": "string_value",
        "attack.layers": "string_value",
        "flip": "string_value",
        "limit": "string_value",
    }
    assert found["attack.rho"].number_value == 0.02
    assert (found["limit"].string_value, found["flip"].string_value) == ("None", "True")
    assert curve(accumulator, "zest/l2") == [(10, 3.0)]
    assert curve(accumulator, "accuracy/test") == [(9, 0.5)]  # the curve is not given a point twice


def test_importing_the_monitor_does_not_import_tensorboard() -> None:
    code = "import sys, rnet.training.monitor; sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- the log


def test_the_log_has_one_object_for_each_step_with_its_time(tmp_path: Path) -> None:
    with silent(tmp_path) as monitor:
        train(monitor, 0, 2)
        monitor.scalars(2, {})
    raw = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines(tmp_path) == [
        {"step": 0, "loss/total": 1.0, "lr": 0.5},
        {"step": 1, "loss/total": 0.5, "lr": 0.5, "accuracy/test": 1.0},
    ]
    assert all(line["time"] > 1.6e9 for line in raw)


def test_a_line_is_in_the_file_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    monitor = silent(tmp_path)
    monitor.scalars(0, {"loss": 1.0})
    assert lines(tmp_path) == [{"step": 0, "loss": 1.0}]
    monitor.close()


@pytest.mark.parametrize("torn", [b'{"step": 1, "los', b'{"step": 1, "loss": 0.5}'])
def test_a_line_torn_by_a_crash_is_dropped_with_a_warning(
    torn: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 0, "loss": 1.0}\n\0\0\0\n' + torn)
    with silent(tmp_path, start_step=2) as monitor:
        monitor.scalars(2, {"loss": 0.5})
    assert lines(tmp_path) == [{"step": 0, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    assert "log.jsonl:2" in caplog.text
    assert "log.jsonl:3" in caplog.text


def test_values_that_are_not_finite_are_logged_and_warned_about_once_for_each_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), silent(tmp_path) as monitor:
        for step in range(3):
            monitor.scalars(step, {"loss": float("nan"), "kl": float("-inf"), "lr": 1.0})
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "loss is nan at step 0",
        "kl is -inf at step 0",
    ]
    assert all(np.isnan(line["loss"]) and line["kl"] == -np.inf for line in lines(tmp_path))
    assert np.isnan([value for _, value in curve(events(tmp_path), "loss")]).all()


# ---------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_at_once_then_at_most_every_so_often_and_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitor(None, "removalnet", 1000, 200, every_seconds=10) as monitor:
        for step in range(201, 241):
            clock[0] += 0.5
            monitor.advance(step, {"loss": step / 500})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "removalnet  step 201/1000  loss 0.402  2 steps/s  7 min left",
        "removalnet  step 221/1000  loss 0.442  2 steps/s  6 min left",
        "removalnet  step 240/1000  loss 0.48  2 steps/s  6 min left",
    ]


def test_the_speed_is_that_since_the_line_before_and_of_the_whole_run_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitor(None, "run", 100, every_seconds=10) as monitor:
        for step, seconds in [(10, 10), (30, 10), (40, 5)]:
            clock[0] += seconds
            monitor.advance(step)
    assert [line.split("  ")[-2:] for line in capsys.readouterr().err.splitlines()] == [
        ["1 steps/s", "90 s left"],
        ["2 steps/s", "35 s left"],
        ["1.6 steps/s", "38 s left"],
    ]


def test_a_second_advance_of_a_step_adds_its_values(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor(None, "run", 2) as monitor:
        monitor.advance(1, {"loss": 0.25})
        monitor.advance(1, {"accuracy": 0.5})
    assert capsys.readouterr().err.splitlines()[-1] == "run  step 1/2  loss 0.25  accuracy 0.5"


def test_nothing_is_said_twice_and_nothing_at_all_before_the_first_step(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    Monitor(None, "run", 2).close()
    assert capsys.readouterr().err == ""
    monitor = Monitor(None, "run", 2)
    monitor.advance(2, {"loss": 1.0})
    monitor.close()
    monitor.close()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_terminal_gets_a_bar_that_starts_where_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with Monitor(None, "removalnet", 50, 20) as monitor:
        started = terminal.getvalue()
        monitor.advance(30, {"loss": 0.5})
        monitor.advance(50, {"accuracy": 0.125})
        print("a line of the log", file=sys.stderr)  # noqa: T201
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "20/50" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", started)
    last = drawn.rstrip().splitlines()[-1]
    assert last.startswith("removalnet")
    assert "50/50" in last
    assert last.rstrip().endswith("loss 0.5  accuracy 0.125")
    assert "a line of the log\n" in drawn, "what is logged stands above the bar"
    before = terminal.getvalue()
    monitor.close()
    assert terminal.getvalue() == before


def test_work_that_no_monitor_watches_is_shown_part_by_part(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress.tell(1, 2, "queries")
    with progress.shown("fingerprint deepjudge"):
        for done in range(3):
            progress.tell(done, 3, "pairs")
            clock[0] += 20
        progress.tell(0, 8, "searches")
    with progress.shown("verify zest", quiet=True):
        progress.tell(1, 2, "images")
    assert capsys.readouterr().err.splitlines() == [
        "fingerprint deepjudge: pairs  step 0/3",
        "fingerprint deepjudge: pairs  step 1/3  0.05 steps/s  40 s left",
        "fingerprint deepjudge: pairs  step 2/3  0.05 steps/s  20 s left",
        "fingerprint deepjudge: searches  step 0/8",
    ]


def test_the_time_before_the_first_step_is_told_once_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(startup.time, "monotonic", lambda: now[0])
    begun = startup.Startup()
    begun.begin()
    for name, seconds in [("reading data", 1.25), ("reading data", 0.25), ("first step", 2.0)]:
        now[0] += 1.0
        with begun.part(name):
            now[0] += seconds
    found = begun.told()
    assert found == {"reading data": 1.5, "preparing": 3.0, "first step": 2.0, "total": 6.5}
    assert startup.in_words(found) == "first step after 6.5 s (reading data 1.5 s, preparing 3.0 s, first step 2.0 s)"
    assert begun.told() == {}


def test_logging_after_the_end_is_an_error(tmp_path: Path) -> None:
    monitor = silent(tmp_path)
    monitor.close()
    monitor.close()
    with pytest.raises(ValueError, match="closed"):
        monitor.scalars(0, {"loss": 1.0})


def test_a_quiet_monitor_still_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with silent(tmp_path) as monitor:
        monitor.scalars(0, {"loss": 1.0})
        monitor.advance(1, {"loss": 1.0})
    assert capsys.readouterr() == ("", "")
    assert lines(tmp_path) == [{"step": 0, "loss": 1.0}]


def test_the_null_monitor_takes_every_call_and_says_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with NullMonitor() as monitor:
        monitor.scalars(0, {"loss": float("nan")})
        monitor.advance(1, {"loss": 1.0})
        monitor.image(0, "picture", np.zeros((4, 4, 3), dtype=np.uint8))
        monitor.text(0, "text", "text")
        monitor.hyperparameters({"a": 1}, {"b": 2.0})
        monitor.flush()
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    assert not list(tmp_path.iterdir())
