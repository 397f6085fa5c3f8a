"""How a step scales over processes on this machine: engine by engine, for 1, 2, 4, ... processes.

Strong scaling divides the same global batch, so that every row computes the same experiment; weak scaling keeps each
process's share, so that the global batch grows. Each row is measured by processes of its own, started one row after the
other; of each step the slowest process counts. On CPUs the cores are divided among the processes.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch

from rnet.attacks.removalnet.attack import RemovalNet
from rnet.bench.local_processes import run_processes
from rnet.bench.scaling_rank import Case, Measured
from rnet.bench.steps import require_removalnet
from rnet.bench.timing import interquartile_range
from rnet.config.overrides import expand_choices
from rnet.config.run import RunConfig, load_config
from rnet.data.loading import load_dataset
from rnet.engines.choice import check_batch, check_engine
from rnet.errors import UserError, unknown_name
from rnet.models.classifier import Classifier
from rnet.stages.models import build
from rnet.training.loop import resolve_device

logger = logging.getLogger(__name__)

MODES = ("strong", "weak")
STEPS = ("attack", "train")
ENGINES = ("ddp", "zero0", "zero1", "zero2", "zero3")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be measured. engines: the overrides of each engine, by the name it is shown under."""

    config: RunConfig
    config_dir: Path | None
    device: torch.device
    cores: int
    steps: tuple[str, ...]
    processes: tuple[int, ...]
    engines: dict[str, list[str]]

    def batch_size(self, step: str) -> int:
        """The global batch of one process, and of any number in strong scaling."""
        return int(getattr(self.config, step).batch_size)

    def threads(self, processes: int) -> int:
        """Of each process."""
        return max(1, self.cores // processes)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement of a plan. batch_size: of all processes together."""

    step: str
    mode: str
    engine: str
    processes: int
    threads: int
    batch_size: int
    measured: Measured


def plan_scaling(overrides: Sequence[str], *, config_dir: Path | None = None) -> Plan:
    """The plan for overrides of a run, and three of its own: processes=1,2,4, step=attack,train and engine=ddp,zero3.

    One process, which the others are compared with, is always measured. By default processes are the powers of two up
    to the number of GPUs (or CPU cores) that can share the batch, the step is the attack's, and engines are all that
    are installed. Raises UserError for whatever could not run, before anything is started.
    """
    own = {"processes": "", "step": "attack"}
    rest = []
    for line in overrides:
        key, _, value = line.partition("=")
        if key in own:
            own[key] = value
        else:
            rest.append(line)
    if not any(line.startswith("engine=") and line != "engine=auto" for line in rest):
        named = ENGINES if find_spec("deepspeed") else ENGINES[:1]
        rest = [*(line for line in rest if line != "engine=auto"), f"engine={','.join(named)}"]
    configs: dict[str, tuple[RunConfig, list[str]]] = {}
    for combination in expand_choices(rest, ("engine", "engine.zero_stage")):
        config = load_config(combination, config_dir=config_dir)
        configs.setdefault(_label(config), (config, combination))
    config = next(iter(configs.values()))[0]
    device, cores = resolve_device(config.engine.device), len(os.sched_getaffinity(0))
    steps = tuple(dict.fromkeys(own["step"].split(",")))
    for step in steps:
        if step not in STEPS:
            raise unknown_name("step", step, STEPS)
    plan = Plan(
        config=config, config_dir=config_dir, device=device, cores=cores, steps=steps, processes=(1,),
        engines={label: combination for label, (_, combination) in configs.items()},
    )  # fmt: skip
    places = torch.cuda.device_count() if device.type == "cuda" else cores
    processes = _given(own["processes"], plan, places) if own["processes"] else _default(plan, places)
    _check([config for config, _ in configs.values()], plan, processes)
    return replace(plan, processes=processes)


def bench_scaling(plan: Plan, *, rounds: int = 20) -> list[dict[str, Any]]:
    """One row per step, mode, engine and number of processes; see scaling_rows.

    Raises UserError, with the error of the process that failed, if one does.
    """
    points = []
    for step, engine, processes in product(plan.steps, plan.engines, plan.processes):
        alone = plan.batch_size(step)
        strong = _measure(plan, step, engine, processes, alone, rounds)
        # One process is the first row of both.
        weak = strong if processes == 1 else _measure(plan, step, engine, processes, processes * alone, rounds)
        points += [strong, replace(weak, mode="weak")]
    return scaling_rows(points)


def scaling_rows(points: Iterable[Point]) -> list[dict[str, Any]]:
    """Rows in the order of steps, modes, engines and processes, each compared with its engine on one process.

    median_ms and spread_ms (interquartile range) of a step; samples_per_second of all processes together; speed_up: how
    many times as many samples per second as one process; efficiency: that per process, 1 at best where every process
    has a device of its own. memory_mb and held_mb (parameters between steps) are the largest of any process. payload
    and sent_mb: what a process sends in a step (see traffic.py).
    """
    order = {name: number for number, name in enumerate((*STEPS, *MODES))}
    rows = []
    for point in points:
        row = asdict(point)
        measured = row.pop("measured")
        times_ms = measured.pop("times_ms")
        median = statistics.median(times_ms)
        row |= {
            "batch_per_process": point.batch_size // point.processes,
            "median_ms": median,
            "spread_ms": interquartile_range(times_ms),
            "rounds": len(times_ms),
            "samples_per_second": 1000 * point.batch_size / median,
        }
        rows.append(row | measured)
    alone = {_series(row): row["samples_per_second"] for row in rows if row["processes"] == 1}
    for row in rows:
        row["speed_up"] = row["samples_per_second"] / alone[_series(row)]
        row["efficiency"] = row["speed_up"] / row["processes"]
    return sorted(rows, key=lambda row: (order[row["step"]], order[row["mode"]]))  # stable


def _series(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["step"], row["mode"], row["engine"]


def _label(config: RunConfig) -> str:
    engine = config.engine
    if engine.name != "deepspeed":
        return engine.name
    return f"zero{engine.zero_stage}{' offload' if engine.offload else ''}"


def _given(text: str, plan: Plan, places: int) -> tuple[int, ...]:
    try:
        processes = sorted({1, *(int(number) for number in text.split(","))})
    except ValueError:
        raise UserError(f"processes={text!r} is no list of numbers; write it like processes=1,2,4") from None
    if processes[0] < 1:
        raise UserError(f"processes={text!r} must be 1 or more each; write it like processes=1,2,4")
    if processes[-1] > places:
        if plan.device.type == "cuda":
            raise UserError(
                f"processes={processes[-1]} need as many CUDA devices, but this machine has {places}; use at most "
                f"processes={places}, or engine.device=cpu"
            )
        logger.warning("processes=%d share %d CPU cores: they will wait for each other", processes[-1], places)
    return tuple(processes)


def _default(plan: Plan, places: int) -> tuple[int, ...]:
    powers = [2**exponent for exponent in range(places.bit_length()) if 2**exponent <= places]
    pieces = plan.config.engine.accumulate
    fitting = [n for n in powers if n == 1 or all(plan.batch_size(step) % (n * pieces) == 0 for step in plan.steps)]
    if fitting != powers:
        logger.warning("the batch cannot be divided into %d: measuring at most %d processes", powers[-1], fitting[-1])
    return tuple(fitting)


def _check(configs: Sequence[RunConfig], plan: Plan, processes: Sequence[int]) -> None:
    """Raises UserError for whatever the processes would refuse once they have been started."""
    dataset = load_dataset(plan.config.dataset)
    model: Classifier = build(plan.config.model, dataset, seed=0)
    if "attack" in plan.steps:
        attack = RemovalNet(require_removalnet(plan.config.attack, "rnet bench scaling"))
        attack.check(model, dataset, model.cut_layer)
    for config in configs:
        if config.engine.name == "deepspeed" and not find_spec("deepspeed"):
            raise UserError(f"engine={_label(config)} needs DeepSpeed; pip install deepspeed, or use engine=ddp")
        if ":" in config.engine.device:
            raise UserError(f"engine.device={config.engine.device} is one device; use engine.device=cuda")
        for count in processes:
            engine = replace(config.engine, victim="replica") if count == 1 else config.engine
            check_engine(engine, config.precision, count, plan.device)
            for step in plan.steps:
                check_batch(config.engine, f"{step}.batch_size", plan.batch_size(step), model, count)


def _measure(plan: Plan, step: str, engine: str, processes: int, batch_size: int, rounds: int) -> Point:
    overrides = [*plan.engines[engine], f"{step}.batch_size={batch_size}"]
    if processes == 1:
        overrides.append("engine.victim=replica")  # there is nobody to divide it among
    case = Case(
        step=step, overrides=overrides, rounds=rounds,
        config_dir=str(plan.config_dir.resolve()) if plan.config_dir else None,
    )  # fmt: skip
    threads = plan.threads(processes)
    what = f"{step} step, {engine}, {processes} process{'es' if processes > 1 else ''}, batch {batch_size}"
    with tempfile.TemporaryDirectory() as folder:
        case_file, result_file = Path(folder) / "case.json", Path(folder) / "result.json"
        case_file.write_text(json.dumps(asdict(case)))
        program = ["-m", "rnet.bench.scaling_rank", str(case_file), str(result_file)]
        run_processes(program, processes, threads=threads, what=what)
        measured = Measured(**json.loads(result_file.read_text()))
    logger.info("%s: %.1f ms", what, statistics.median(measured.times_ms))
    return Point(
        step=step, mode="strong", engine=engine, processes=processes, threads=threads, batch_size=batch_size,
        measured=measured,
    )  # fmt: skip
