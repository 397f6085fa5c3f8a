"""A step of RemovalNet against the network passes it needs and against a straightforward program, in one run.

They take turns, so that a busy machine disturbs them alike. A turn is one step and then those that are timed: in a
run, too, each step finds the memory that another left. On a GPU several are timed together, because a run never waits
for one before it prepares the next. Medians and interquartile ranges are reported.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rnet.attacks.removalnet.attack import RemovalNet
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.attacks.training import Training
from rnet.bench.memory import peak_memory
from rnet.bench.monitoring import monitoring
from rnet.bench.profile import by_kind, costliest
from rnet.bench.steps import prepare_removalnet
from rnet.bench.straightforward_removalnet import bare_passes, straightforward_step
from rnet.bench.timing import interquartile_range, now
from rnet.cutting.split import SplitModel, channel_axis
from rnet.data.images import Dataset
from rnet.draws import channel_permutations, derive_seed, uniform
from rnet.engines.config import EngineConfig
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.rewrites.attention import project_as_torch
from rnet.rewrites.in_training import train_as_torch
from rnet.training.flops import count_flops

IN_A_ROW = 4
"""Steps timed together on a GPU."""
LOWER_LEVEL = "its lower level"
MONITORING = "monitoring"


def bench_attack(
    victim: Classifier,
    dataset: Dataset,
    config: RemovalNetConfig,
    *,
    layer: str | None,
    precision: str,
    engine: EngineConfig | None = None,
    rounds: int = 5,
    profile: int = 0,
) -> list[dict[str, Any]]:
    """Rows for rnet's step, its lower level alone, that with each choice of the engine switched off, the bare passes,
    the straightforward program in float32, and the step's share of monitoring (which has no gflops): curves,
    measurements and probes as the engine's intervals say.

    Each: median_ms, spread_ms, memory_mb (peak above start), gflops (of the bare passes, or those of the lower level,
    per second), times_ms of all rounds, and ratio: how many times as long as rnet's step it takes, the median over
    rounds, with ratio_low and ratio_high, the lowest and the highest. A last row holds the ceiling: GFLOP/s of
    a large matrix product in rnet's precision, which is also that of the bare passes, and floor_ms, what a step of the
    bare passes would take at that rate.
    engine: how rnet's step is executed; always in one process. profile: how many of the costliest operators of the
    lower level its row holds as "operators", and as "kinds" all of them summed up (rnet/bench/profile.py), of one more
    call.
    Raises UserError for a configuration that the straightforward program does not cover.
    """
    if config.distance != "l2" or config.target != "official":
        raise UserError("rnet bench attack measures attack.distance=l2 attack.target=official; leave both as they are")
    device = next(victim.parameters()).device
    attack = RemovalNet(config)
    engine = replace(engine or EngineConfig(), name="plain")

    def prepared(by: EngineConfig) -> Training:
        return prepare_removalnet(attack, victim, dataset, layer=layer, precision=precision, engine=by)

    ready = prepared(engine)
    bare = attack.module(_as_torch_has_it(ready.surrogate), layer)  # in the memory format that rnet chose
    plain = attack.module(_as_torch_has_it(ready.surrogate).to(memory_format=torch.contiguous_format), layer)
    optimizer = torch.optim.SGD(
        plain.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    seed = derive_seed(config.seed or 0, "removalnet")

    def inputs(t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = ready.batches(t)
        y_B = ready.transfer.answers(batch)
        return batch.x_BCHW, y_B, batch.stream_ids_B

    def straightforward(t: int) -> None:
        x_BCHW, y_B, ids_B = inputs(t)
        with torch.no_grad():
            z = plain.eval().head(x_BCHW)
        u = uniform(seed, "latent start", t, ids_B, math.prod(z.shape[1:]), device=device).view(z.shape)
        calls, channels = config.num_poison_steps + 1, z.shape[channel_axis(z)]
        perms = channel_permutations(seed, "shuffle", t, ids_B, calls, channels, config.rho, device=device)
        straightforward_step(
            plain, optimizer, x_BCHW, y_B, u, perms, temperature=config.temperature, alpha=config.alpha,
            beta=config.beta, gamma=config.gamma,
        )  # fmt: skip

    def passes(t: int) -> None:
        x_BCHW, y_B, _ = inputs(t)
        with ready.engine.autocast():
            bare_passes(bare, x_BCHW, y_B, config.num_poison_steps)

    candidates: dict[str, Callable[[int], object]] = {
        "rnet": ready.step, LOWER_LEVEL: ready.loss_of,
        **{f"{LOWER_LEVEL}, {choice}": prepared(by).loss_of for choice, by in _without(engine, device, precision)},
        "bare passes": passes, "straightforward float32": straightforward,
    }  # fmt: skip
    lower, upper = _flops(bare, inputs(0)[0], config.num_poison_steps)
    with TemporaryDirectory() as folder:
        watch, steps, monitor = monitoring(ready, victim, dataset, layer, ready.step(0), Path(folder))
        with monitor:
            rows = _measure(candidates | {MONITORING: watch}, device, rounds)
    own = rows[0]["times_ms"]
    for row in rows:
        if row["name"] == MONITORING:
            row |= {"median_ms": row["median_ms"] / steps, "spread_ms": row["spread_ms"] / steps}
            row["times_ms"] = [time / steps for time in row["times_ms"]]
        flops = lower if row["name"].startswith(LOWER_LEVEL) else lower + upper
        ratios = [time / first for time, first in zip(row["times_ms"], own, strict=True)]
        row |= {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
        if row["name"] != MONITORING:
            row["gflops"] = flops / row["median_ms"] / 1e6
        if profile and row["name"] == LOWER_LEVEL:
            found = costliest(lambda: ready.loss_of((rounds + 1) * (IN_A_ROW + 1)), device)
            row |= {"operators": found[:profile], "kinds": by_kind(found)}
    ceiling = _matmul_gflops(device, precision)
    return [*rows, {"name": "ceiling", "gflops": ceiling, "floor_ms": (lower + upper) / ceiling / 1e6}]


def _without(engine: EngineConfig, device: torch.device, precision: str) -> list[tuple[str, EngineConfig]]:
    """The engine with one choice switched off at a time, of those that it makes here for a lower level."""
    on_cuda = device.type == "cuda"
    choices = [
        ("compile", on_cuda and bool(engine.compile), replace(engine, compile=False)),
        ("cuda_graph", on_cuda and engine.cuda_graph, replace(engine, cuda_graph=False)),
        ("quicken", engine.quicken, replace(engine, quicken=False)),
    ]
    return [(f"engine.{name}=false", other) for name, is_made, other in choices if is_made]


def _as_torch_has_it(model: Classifier) -> Classifier:
    """A copy without rnet's ways to compute attention and to train."""
    result = copy.deepcopy(model)
    project_as_torch(result)
    train_as_torch(result)
    return result


def _flops(split: SplitModel, x_BCHW: torch.Tensor, steps: int) -> tuple[int, int]:
    """Of the bare passes of both levels: a backward pass costs its forward pass for data and again for weights."""
    split.eval()
    with torch.no_grad():
        z = split.head(x_BCHW)
        split.tail(z)  # its first call looks at itself, with a pass of its own
        tail, whole = count_flops(lambda: split.tail(z)), count_flops(lambda: split(x_BCHW))
    return steps * 2 * tail + whole, 3 * whole


def _measure(candidates: dict[str, Callable[[int], object]], device: torch.device, rounds: int) -> list[dict[str, Any]]:
    times: dict[str, list[float]] = {name: [] for name in candidates}
    memory: dict[str, float] = {}
    steps = IN_A_ROW if device.type == "cuda" else 1
    for number in range(rounds + 1):
        for name, work in candidates.items():
            first = number * (steps + 1)
            if number == 0:  # warms up, too
                with peak_memory(device) as found:
                    work(first)
                memory[name] = found["mb"]
                continue
            work(first)
            started = now(device)
            for t in range(first + 1, first + 1 + steps):
                work(t)
            times[name].append(1000 * (now(device) - started) / steps)
    return [
        {
            "name": name,
            "median_ms": statistics.median(found),
            "spread_ms": interquartile_range(found),
            "times_ms": found,
            "memory_mb": memory[name],
            "rounds": rounds,
        }
        for name, found in times.items()
    ]


def _matmul_gflops(device: torch.device, precision: str) -> float:
    """The best of a few products of two matrices in the attack's precision."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    seconds = []
    for _ in range(5):
        started = now(device)
        a @ b
        seconds.append(now(device) - started)
    return 2 * size**3 / min(seconds) / 1e9
