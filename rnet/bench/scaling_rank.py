"""One process of `rnet bench scaling`: python -m rnet.bench.scaling_rank CASE RESULT.

CASE is a JSON file with the fields of Case; the processes share the run it names, and the first one writes what they
measured to RESULT.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import torch

from rnet.attacks.removalnet.attack import RemovalNet
from rnet.bench.memory import peak_memory
from rnet.bench.steps import prepare_removalnet, prepare_victim_training
from rnet.bench.timing import now
from rnet.bench.traffic import Traffic
from rnet.command.guarded import guarded, leave_at_once
from rnet.config.run import RunConfig, load_config
from rnet.data.images import Dataset
from rnet.data.loading import load_dataset
from rnet.engines.base import Engine
from rnet.parallel.collectives import gather_values, rank, wait_for_all, world_size
from rnet.parallel.launch import launched
from rnet.parallel.processes import process_group
from rnet.stages.models import build, frozen_victim
from rnet.training.loop import Step, resolve_device

WARM_UP = 2  # the first step makes the optimizer's state, and finds the fastest convolutions


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured: a step (attack or train) of the run that the overrides name, so many times."""

    step: str
    overrides: list[str]
    config_dir: str | None
    rounds: int

    def config(self) -> RunConfig:
        """The run, resolved."""
        return load_config(self.overrides, config_dir=Path(self.config_dir) if self.config_dir else None)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """times_ms: of each step, the slowest rank's. memory_mb: the largest peak of a rank, above what its imports took.

    held_mb: the largest share of the parameters on a rank between steps. loss: of the last step, over the whole batch.
    payload: bytes of each collective in one step, as Traffic counts them; sent_mb: what a rank sends of it.
    ran: what the engine says of itself.
    """

    times_ms: list[float]
    memory_mb: float
    held_mb: float
    loss: float
    payload: dict[str, int]
    sent_mb: float
    ran: str


def measure(case: Case) -> Measured:
    """Called by all processes of the group together; all get the same."""
    config = case.config()
    device, dataset = resolve_device(config.engine.device), load_dataset(config.dataset)
    import_module("torch._dynamo")  # optimizers load it, a hundred MiB and more: before memory is watched
    if config.engine.name == "deepspeed":
        from rnet.engines.deepspeed import import_deepspeed

        import_deepspeed(device)
    with peak_memory(device) as memory:
        engine, step = _prepare(case, config, dataset, device)
        for t in range(WARM_UP):
            step(t)
    seconds = []
    for t in range(WARM_UP, WARM_UP + case.rounds):
        wait_for_all()
        started = now(device)
        metrics = step(t)
        seconds.append(now(device) - started)
    with Traffic() as traffic:  # after the clock has been read: it costs time
        step(WARM_UP + case.rounds)
    ranks = gather_values([seconds, memory["mb"], engine.held_bytes(), float(metrics["loss/total"])])
    times, peaks, held, losses = zip(*ranks, strict=True)
    return Measured(
        times_ms=[1000 * max(same_step) for same_step in zip(*times, strict=True)],
        memory_mb=max(peaks),
        held_mb=max(held) / 2**20,
        loss=sum(losses) / len(losses),
        payload=traffic.payload,
        sent_mb=traffic.sent(world_size()) / 2**20,
        ran=engine.describe(),
    )


def _prepare(case: Case, config: RunConfig, dataset: Dataset, device: torch.device) -> tuple[Engine, Step]:
    """On an untrained network: what it has learned does not change what a step costs."""
    model = build(config.model, dataset, seed=0).to(device)
    if case.step == "train":
        return prepare_victim_training(
            model, dataset, config.train, precision=config.precision, engine=config.engine,
            num_steps=WARM_UP + case.rounds + 1,
        )  # fmt: skip
    victim_forward = frozen_victim(config, build(config.model, dataset, seed=0).eval(), device)
    ready = prepare_removalnet(
        RemovalNet(config.attack), model.eval(), dataset, layer=model.cut_layer,
        precision=config.precision, engine=config.engine, victim_forward=victim_forward,
    )  # fmt: skip
    return ready.engine, ready.step


def main() -> int:
    """Joins the other processes, measures with them, and returns the exit status."""
    case_file, result_file = (Path(argument) for argument in sys.argv[1:])
    case = Case(**json.loads(case_file.read_text()))

    def share() -> None:
        engine = case.config().engine
        with process_group(launched(), resolve_device(engine.device).type, backend=engine.backend):
            measured = measure(case)
            if rank() == 0:
                result_file.write_text(json.dumps(asdict(measured)))

    status = guarded(share)
    leave_at_once(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
