"""Fingerprint extraction and verification, batched, against the same work done one query at a time, in one run.

The one-at-a-time programs (sequential_*.py) do a part of the work; their time is scaled to the whole, which suits loops
over independent queries and is said in the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rnet.bench.memory import peak_memory
from rnet.bench.sequential_deepjudge import sequential_fuzz
from rnet.bench.sequential_ipguard import sequential_ipguard
from rnet.bench.sequential_zest import sequential_weights
from rnet.data.images import Dataset
from rnet.defenses.base import Fingerprint, device_of, frozen_eval
from rnet.defenses.config import IPGuardConfig, ZestConfig
from rnet.defenses.deepjudge_whitebox import fuzz, largest_outputs, neuron_outputs
from rnet.defenses.ipguard import IPGuard
from rnet.defenses.queries import samples_per_chunk
from rnet.defenses.zest import Zest
from rnet.models.classifier import Classifier
from rnet.models.split import SplitModel


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison. batched() does `whole` units of work, sequential() `part` of them."""

    name: str
    unit: str
    whole: int
    part: int
    batched: Callable[[], object]
    sequential: Callable[[], object]


def bench_fingerprint(
    victim: Classifier, dataset: Dataset, layer: str, *, budget_mb: int = 512
) -> list[dict[str, Any]]:
    """One row per defence: seconds both ways, their ratio, and the batched peak memory in MiB beside its budget."""
    device = device_of(victim)
    rows = []
    with frozen_eval(victim):
        cases = [
            _ipguard(victim, dataset, budget_mb),
            _fuzzing(victim, dataset, layer, budget_mb),
            _zest(victim, dataset, budget_mb),
        ]
        for case in cases:
            with peak_memory(device) as memory:
                batched = _seconds(case.batched, device)
            sequential = _seconds(case.sequential, device) * case.whole / case.part
            rows.append(
                {
                    "name": case.name,
                    "work": f"{case.whole} {case.unit}",
                    "batched_seconds": batched,
                    "sequential_seconds": sequential,
                    "sequential_measured_on": f"{case.part} {case.unit}",
                    "ratio": sequential / batched,
                    "memory_mb": memory["mb"],
                    "budget_mb": budget_mb,
                }
            )
    return rows


def _ipguard(victim: Classifier, dataset: Dataset, budget_mb: int) -> Case:
    defense = IPGuard(IPGuardConfig(memory_mb=budget_mb))
    x_NCHW, i_N, j_N = defense.starting_points(victim, dataset, seed=0)
    part = 20
    return Case(
        name="ipguard extraction", unit="queries", whole=len(x_NCHW), part=part,
        batched=lambda: defense.extract(victim, dataset, seed=0),
        sequential=lambda: sequential_ipguard(victim, x_NCHW[:part], i_N[:part], j_N[:part]),
    )  # fmt: skip


def _fuzzing(victim: Classifier, dataset: Dataset, layer: str, budget_mb: int) -> Case:
    phi = neuron_outputs(SplitModel(victim, layer))
    device = device_of(victim)
    chunk = samples_per_chunk(victim, dataset.test.pixels(torch.arange(1)), budget_mb)
    maximum_C = largest_outputs(phi, dataset.train, 1000, chunk, device)
    neuron_M = torch.arange(min(16, len(maximum_C)))
    seeds_NCHW = dataset.test.pixels(torch.arange(min(20, len(dataset.test))), device)
    threshold_M = 3 * maximum_C[neuron_M.to(device)]
    settings = {"learning_rate": 0.01, "max_steps": 200, "box": True}
    return Case(
        name="deepjudge fuzzing", unit="(seed, neuron) pairs",
        whole=len(seeds_NCHW) * len(neuron_M), part=len(neuron_M),
        batched=lambda: fuzz(phi, seeds_NCHW, neuron_M, threshold_M, chunk=chunk, **settings),  # type: ignore[arg-type]
        sequential=lambda: sequential_fuzz(phi, seeds_NCHW[:1], neuron_M, threshold_M, **settings),  # type: ignore[arg-type]
    )  # fmt: skip


def _zest(victim: Classifier, dataset: Dataset, budget_mb: int) -> Case:
    defense = Zest(ZestConfig(num_images=16, memory_mb=budget_mb))
    made = defense.extract(victim, dataset, seed=0)
    one = Fingerprint(
        tensors={name: value if name == "mean_C" else value[:1] for name, value in made.tensors.items()},
        metadata=made.metadata,
    )
    return Case(
        name="zest answers to masked images", unit="images x 1000 masks", whole=16, part=1,
        batched=lambda: defense.weights(made, victim),
        sequential=lambda: sequential_weights(one, victim),
    )  # fmt: skip


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
