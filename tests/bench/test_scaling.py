"""The benchmark of scaling: what its rows say of measurements, what it refuses, and real processes that it starts."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rnet.bench.local_processes import run_processes
from rnet.bench.scaling import Plan, Point, bench_scaling, plan_scaling, scaling_rows
from rnet.bench.scaling_rank import Measured
from rnet.data.loading import load_dataset
from rnet.errors import UserError
from rnet.stages.models import build
from tests.tiny_runs import TINY, TINY_REMOVALNET

RUN = [*TINY, *TINY_REMOVALNET, "model.width=16"]  # wide enough for ZeRO-3 to divide something


def point(mode: str, processes: int, batch_size: int, times_ms: list[float]) -> Point:
    measured = Measured(times_ms=times_ms, memory_mb=5.0, held_mb=2.0, loss=1.0, payload={}, sent_mb=0.0, ran="ddp")
    return Point(
        step="attack", mode=mode, engine="ddp", processes=processes, threads=1, batch_size=batch_size, measured=measured
    )


def parameter_bytes(plan: Plan) -> int:
    model = build(plan.config.model, load_dataset(plan.config.dataset), seed=0)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def test_a_row_compares_samples_per_second_with_those_of_one_process() -> None:
    alone = [90.0, 100.0, 400.0]  # the median is 100: one slow step is no matter
    rows = scaling_rows(
        [
            point("strong", 1, 32, alone), point("weak", 1, 32, alone),
            point("strong", 4, 32, [40.0, 40.0, 40.0]), point("weak", 4, 128, [125.0, 120.0, 130.0]),
        ]
    )  # fmt: skip
    assert [(row["mode"], row["processes"]) for row in rows] == [("strong", 1), ("strong", 4), ("weak", 1), ("weak", 4)]
    assert [row["median_ms"] for row in rows] == [100, 40, 100, 125]
    assert [row["samples_per_second"] for row in rows] == pytest.approx([320, 800, 320, 1024])
    assert [row["speed_up"] for row in rows] == pytest.approx([1, 2.5, 1, 3.2])
    assert [row["efficiency"] for row in rows] == pytest.approx([1, 0.625, 1, 0.8])
    assert [row["batch_per_process"] for row in rows] == [32, 8, 32, 32]
    assert rows[3]["spread_ms"] == pytest.approx(10)


def test_engines_are_compared_with_themselves() -> None:
    points = [point("strong", 1, 32, [100.0]), point("strong", 2, 32, [50.0])]
    slower = [replace(p, engine="zero3", measured=replace(p.measured, times_ms=[400.0])) for p in points]
    rows = scaling_rows([*points, *slower])
    assert [row["speed_up"] for row in rows] == pytest.approx([1, 2, 1, 1])


def test_the_plan_follows_the_overrides() -> None:
    given = ["processes=2", "step=attack,train", "engine=ddp,deepspeed", "engine.zero_stage=1,3"]
    plan = plan_scaling([*RUN, *given])
    assert plan.processes == (1, 2), "one process is what the others are compared with"
    assert plan.steps == ("attack", "train")
    assert list(plan.engines) == ["ddp", "zero1", "zero3"]
    assert (plan.batch_size("attack"), plan.batch_size("train")) == (16, 50)
    assert plan.threads(1) == plan.cores


def test_every_engine_and_the_powers_of_two_that_share_the_batch_are_the_default(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process_id: set(range(25)))
    plan = plan_scaling([*RUN, "attack.batch_size=24"])
    assert list(plan.engines) == ["ddp", "zero0", "zero1", "zero2", "zero3"]
    assert plan.processes == (1, 2, 4, 8)
    assert "measuring at most 8 processes" in caplog.text, "what is left out is said"
    assert [plan.threads(count) for count in plan.processes] == [25, 12, 6, 3]


REFUSED = {
    "processes=two": r"processes='two' is no list of numbers; write it like processes=1,2,4",
    "processes=0,2": r"processes='0,2' must be 1 or more",
    "processes=1,3": r"attack.batch_size=16 cannot be divided into 3 processes; use a multiple of 3, e.g. 18",
    "step=atack": r"step='atack' does not exist; did you mean attack",
    "engine=dpp": r"engine='dpp' does not exist; did you mean ddp",
    "engine=plain": r"engine=plain is one process, but 2 were started; use engine=ddp",
    "attack=finetune": r"rnet bench scaling measures RemovalNet, not attack=finetune",
    "attack.layer=layer9": r"layer9",
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_could_not_run_is_refused_before_anything_starts(wrong: str) -> None:
    run = [line for line in RUN if not (wrong.startswith("attack=") and line.startswith("attack"))]
    processes = [] if wrong.startswith("processes") else ["processes=1,2"]
    with pytest.raises(UserError, match=REFUSED[wrong]):
        plan_scaling([*run, *processes, wrong])


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rnet.bench.scaling.resolve_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=r"processes=4 need as many CUDA devices, but this machine has 2; use at most"):
        plan_scaling([*RUN, "processes=1,2,4"])
    assert plan_scaling(RUN).processes == (1, 2)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("sys.exit('rnet: no such thing')", r"the bench: rank 1 of 2 failed with status 1: no such thing"),
        ("raise ValueError('lost')", r"the bench: rank 1 of 2 failed with status 1: ValueError: lost"),
        ("os.kill(os.getpid(), 9)", r"the bench: rank 1 of 2 was killed by SIGKILL"),
    ],
)
def test_a_process_that_fails_ends_the_others(
    end: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnet.bench.local_processes.GRACE_SECONDS", 0.2)
    program = tmp_path / "program.py"
    program.write_text(
        "import os, pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).write_text(str(os.getpid()))\n"
        f"if os.environ['RANK'] == '1':\n    {end}\ntime.sleep(600)\n"
    )
    started = time.monotonic()
    with pytest.raises(UserError, match=told):
        run_processes([str(program)], 2, threads=1, what="the bench")
    assert time.monotonic() - started < 60
    for rank in ("0", "1"):
        if (tmp_path / rank).exists():
            assert not Path("/proc", (tmp_path / rank).read_text()).exists()


@pytest.mark.slow
def test_one_and_two_real_processes_are_measured_on_the_same_experiment() -> None:
    plan = plan_scaling([*RUN, "processes=1,2", "engine=ddp"])
    rows = bench_scaling(replace(plan, cores=2), rounds=3)
    found = [(row["mode"], row["processes"], row["batch_size"], row["batch_per_process"]) for row in rows]
    assert found == [("strong", 1, 16, 16), ("strong", 2, 16, 8), ("weak", 1, 16, 16), ("weak", 2, 32, 16)]
    for row, alone in zip(rows, [rows[0], rows[0], rows[2], rows[2]], strict=True):
        gain = row["batch_size"] / alone["batch_size"] * alone["median_ms"] / row["median_ms"]
        assert row["speed_up"] == pytest.approx(gain)
        assert row["efficiency"] == pytest.approx(gain / row["processes"])
        assert (row["step"], row["engine"], row["rounds"]) == ("attack", "ddp", 3)
        assert (row["threads"], row["ran"].split(",")[0]) == ((2, "plain") if row["processes"] == 1 else (1, "ddp"))
        assert min(row["median_ms"], row["spread_ms"], row["memory_mb"], row["held_mb"]) > 0
    weights, inner_steps = parameter_bytes(plan), plan.config.attack.num_poison_steps
    payload = rows[1]["payload"]["all_reduce"]
    assert weights + 4 * inner_steps <= payload <= 1.02 * weights, "gradients, a number an inner step, batch norms"
    assert rows[0]["sent_mb"] == 0 < rows[1]["sent_mb"]
    losses = [row["loss"] for row in rows]  # of the fifth step: two warm up
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[3] != pytest.approx(losses[0], rel=1e-4), "another batch is another experiment"


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_victim_training_step_scales_too_and_zero3_divides_its_parameters() -> None:
    given = ["processes=1,2", "engine=zero3", "step=train", "train.epochs=1", "engine.victim=zero3"]
    plan = plan_scaling([*RUN, *given])
    rows = bench_scaling(plan, rounds=3)
    found = [(row["mode"], row["processes"], row["batch_size"]) for row in rows]
    assert found == [("strong", 1, 50), ("strong", 2, 50), ("weak", 1, 50), ("weak", 2, 100)]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-4)
    assert rows[1]["held_mb"] < 0.75 * rows[0]["held_mb"]
    assert rows[1]["ran"].startswith("deepspeed ZeRO-3, 2 processes")
    weights, payload = parameter_bytes(plan), rows[1]["payload"]
    assert payload["reduce_scatter"] == weights
    assert weights < payload["all_gather"] < 2.1 * weights, "once for each pass, but what ZeRO-3 never divides"


@pytest.mark.slow
def test_the_error_of_a_rank_is_the_error_of_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    """The training part gets lost between the plan and the start."""
    plan = plan_scaling([*RUN, "processes=1,2", "engine=ddp"])
    broken = replace(plan, processes=(2,), engines={"ddp": [*plan.engines["ddp"], "dataset.substitute_pool=4"]})
    with pytest.raises(UserError, match=r"step, ddp, 2 processes, batch 16: rank [01] of 2 failed with status 2: "):
        bench_scaling(broken, rounds=2)
    assert "rnet: " in capsys.readouterr().err


def test_the_command_line_shows_rows_and_refuses_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from launch.benchmark import run_bench
    from rnet.command.run import Options

    rows = scaling_rows([point(mode, n, 16 * n, [8.0, 8.0]) for mode in ("strong", "weak") for n in (1, 2)])
    monkeypatch.setattr("rnet.bench.scaling.bench_scaling", lambda plan: rows)
    run_bench("scaling", [*RUN, "processes=1,2"], Options())
    shown = capsys.readouterr().out
    assert "attack step: resnet8 on digits" in shown
    for cell in ("strong", "weak", "8.0 ms", "2.00x", "100 %", "5 MiB", "2.0 MiB"):
        assert cell in shown, cell
    assert not any("…" in line for line in shown.splitlines()), "nothing is cut off"
