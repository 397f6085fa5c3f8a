"""Fingerprint extraction and verification, batched, against the same work done one query at a time, in one run.

Both take turns, in rounds, so that a busy machine disturbs them alike. The one-at-a-time programs (sequential_*.py) do
another part of the work in each round: an interleaved fifth of IPGuard's queries, so that five rounds do all of it; a
part of DeepJudge's and ZEST's, whose time is scaled to the whole, which suits equal units and is said in the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from rnet.bench.memory import peak_memory
from rnet.bench.sequential_deepjudge import sequential_fuzz
from rnet.bench.sequential_ipguard import sequential_ipguard
from rnet.bench.sequential_zest import sequential_weights
from rnet.bench.timing import now
from rnet.cutting.split import SplitModel
from rnet.data.images import Dataset
from rnet.defenses.base import Fingerprint
from rnet.defenses.deepjudge.fuzzing import fuzz
from rnet.defenses.deepjudge.white_box import largest_outputs, neuron_outputs
from rnet.defenses.ipguard.config import IPGuardConfig
from rnet.defenses.ipguard.defense import IPGuard
from rnet.defenses.queries import samples_per_chunk
from rnet.defenses.zest.config import ZestConfig
from rnet.defenses.zest.defense import Zest
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.rewrites.modes import device_of, frozen_eval

MOST_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison. batched() does `whole` units of work, sequential(r) the part of them that is round r's.

    sequential returns how many units that was.
    """

    name: str
    unit: str
    whole: int
    batched: Callable[[], object]
    sequential: Callable[[int], int]


def bench_fingerprint(
    victim: Classifier, dataset: Dataset, layer: str, *, budget_mb: int = 512, rounds: int = MOST_ROUNDS
) -> list[dict[str, Any]]:
    """One row per defence: seconds both ways, their ratio, and the batched peak memory in MiB beside its budget.

    batched_seconds is the mean over the rounds, batched_low and batched_high the extremes. Raises UserError for more
    rounds than MOST_ROUNDS.
    """
    if not 1 <= rounds <= MOST_ROUNDS:
        raise UserError(f"rounds={rounds} must be from 1 to {MOST_ROUNDS}, in which all of the work is done once")
    device = device_of(victim)
    rows = []
    with frozen_eval(victim):
        cases = [
            _ipguard(victim, dataset, budget_mb),
            _fuzzing(victim, dataset, layer, budget_mb),
            _zest(victim, dataset, budget_mb),
        ]
        for case in cases:
            batched, sequential, done = [], 0.0, 0
            for r in range(rounds):
                started = now(device)
                if r == 0:
                    with peak_memory(device) as memory:
                        case.batched()
                else:
                    case.batched()
                batched.append(now(device) - started)
                started = now(device)
                done += case.sequential(r)
                sequential += now(device) - started
            sequential *= case.whole / done
            rows.append(
                {
                    "name": case.name,
                    "work": f"{case.whole} {case.unit}",
                    "rounds": rounds,
                    "batched_seconds": mean(batched),
                    "batched_low": min(batched),
                    "batched_high": max(batched),
                    "sequential_seconds": sequential,
                    "sequential_measured_on": f"{done} {case.unit}",
                    "ratio": sequential / mean(batched),
                    "memory_mb": memory["mb"],
                    "budget_mb": budget_mb,
                }
            )
    return rows


def _ipguard(victim: Classifier, dataset: Dataset, budget_mb: int) -> Case:
    defense = IPGuard(IPGuardConfig(memory_mb=budget_mb))
    x_NCHW, i_N, j_N = defense.starting_points(victim, dataset, seed=0)

    def sequential(r: int) -> int:
        part = slice(r, None, MOST_ROUNDS)
        return len(sequential_ipguard(victim, x_NCHW[part], i_N[part], j_N[part]))

    return Case(
        name="ipguard extraction", unit="queries", whole=len(x_NCHW), sequential=sequential,
        batched=lambda: defense.extract(victim, dataset, seed=0),
    )  # fmt: skip


def _fuzzing(victim: Classifier, dataset: Dataset, layer: str, budget_mb: int) -> Case:
    phi = neuron_outputs(SplitModel(victim, layer))
    device = device_of(victim)
    chunk = samples_per_chunk(victim, dataset.test.pixels(torch.arange(1)), budget_mb)
    maximum_C = largest_outputs(phi, dataset.train, 1000, chunk, device)
    neuron_M = torch.arange(min(16, len(maximum_C)))
    seeds_NCHW = dataset.test.pixels(torch.arange(min(20, len(dataset.test))), device)
    threshold_M = 3 * maximum_C[neuron_M.to(device)]
    settings: dict[str, Any] = {"learning_rate": 0.01, "max_steps": 200, "box": True}

    def sequential(r: int) -> int:
        return sequential_fuzz(phi, seeds_NCHW[r : r + 1], neuron_M, threshold_M, **settings).attempted

    return Case(
        name="deepjudge fuzzing", unit="(seed, neuron) pairs",
        whole=len(seeds_NCHW) * len(neuron_M), sequential=sequential,
        batched=lambda: fuzz(phi, seeds_NCHW, neuron_M, threshold_M, chunk=chunk, **settings),
    )  # fmt: skip


def _zest(victim: Classifier, dataset: Dataset, budget_mb: int) -> Case:
    defense = Zest(ZestConfig(num_images=16, memory_mb=budget_mb))
    made = defense.extract(victim, dataset, seed=0)

    def sequential(r: int) -> int:
        one = {name: value if name == "mean_C" else value[r : r + 1] for name, value in made.tensors.items()}
        sequential_weights(Fingerprint(tensors=one, metadata=made.metadata), victim)
        return 1

    return Case(
        name="zest answers to masked images", unit="images x 1000 masks", whole=len(made.tensors["images_NCHW"]),
        sequential=sequential, batched=lambda: defense.weights(made, victim),
    )  # fmt: skip
