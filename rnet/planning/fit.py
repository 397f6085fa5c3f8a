"""Which settings make a stage fit a device: the first of a list that begins with what costs no time.

Only settings that leave the result as it is, up to rounding: none of them is part of an id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rnet.attacks.registry import ATTACKS
from rnet.config.run import RunConfig
from rnet.data.images import Dataset
from rnet.engines.choice import check_batch, check_engine
from rnet.engines.config import EngineConfig
from rnet.errors import UserError
from rnet.models.zoo import build_model
from rnet.planning.fake import shapes_only
from rnet.planning.plan import Plan, as_run, batch_of, plan_stage
from rnet.training.loop import resolve_device

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_UNITS |= {"TB": 10**12, "TIB": 2**40}
_LEAST_MEMORY_MB = 32


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The plan that was found and the settings that lead to it; the smallest that was found where none fits."""

    plan: Plan
    overrides: list[str]
    fits: bool


def bytes_of(text: str) -> int:
    """40GiB, 40GB, 512MiB or a number of bytes. Raises UserError for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _UNITS or not float(found[1]):
        raise UserError(f"--fit {text!r} is no size of memory; write a number and a unit, e.g. 40GiB or 16GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def check_run(stage: str, config: RunConfig, dataset: Dataset, processes: int) -> None:
    """Raises UserError for what the stage itself would refuse on so many processes, so that no plan of it is shown."""
    engine = as_run(config.engine, processes)
    check_engine(engine, config.precision, processes, resolve_device(engine.device))
    place, batch, pieces = batch_of(stage, config)
    if not batch or (stage == "attack" and not ATTACKS.build(config.attack).trains):
        return
    with shapes_only():
        check_batch(engine, place, batch, _network(stage, config, dataset), processes, accumulate=pieces)


def fit_stage(stage: str, config: RunConfig, dataset: Dataset, processes: int, room: int) -> Fit:
    """The first settings with which each process of the stage holds at most `room` bytes.

    Raises UserError where the stage cannot run as it is set.
    """
    check_run(stage, config, dataset, processes)
    smallest: Fit | None = None
    for overrides, changed in _ways(stage, config, dataset, processes):
        found = Fit(plan=plan_stage(stage, changed, dataset, processes), overrides=overrides, fits=False)
        if found.plan.total <= room:
            return replace(found, fits=True)
        if smallest is None or found.plan.total < smallest.plan.total:
            smallest = found
    assert smallest is not None
    return smallest


def _ways(stage: str, config: RunConfig, dataset: Dataset, processes: int) -> Iterator[tuple[list[str], RunConfig]]:
    """Settings from the fastest to the smallest, as overrides and as they are."""
    if stage in ("fingerprint", "verify"):
        yield [], config
        memory = getattr(config.defense, "memory_mb", 0) // 2
        while memory >= _LEAST_MEMORY_MB and stage == "fingerprint":
            yield [f"defense.memory_mb={memory}"], replace(config, defense=replace(config.defense, memory_mb=memory))
            memory //= 2
        return
    if stage == "train" and config.model.weights is not None:
        yield [], config
        return
    device = resolve_device(config.engine.device)
    savings = list(_savings(stage, config, dataset, processes))
    for engine in _engines(config.engine, stage, processes, on_gpu=device.type != "cpu"):
        for accumulate, checkpointing in savings:
            own = {**engine, "engine.accumulate": accumulate, "engine.activation_checkpointing": checkpointing}
            changed = replace(as_run(config.engine, processes), **{key.partition(".")[2]: own[key] for key in own})
            overrides = _said(own, config.engine)
            try:
                check_engine(changed, config.precision, processes, device)
            except UserError:
                continue
            yield overrides, replace(config, engine=changed)


def _engines(given: EngineConfig, stage: str, processes: int, *, on_gpu: bool) -> list[dict[str, Any]]:
    """What is divided, from nothing to all; what the user has chosen comes first."""
    found: list[dict[str, Any]] = [{}]
    if find_spec("deepspeed") is None:
        return found
    if processes > 1:
        found.append({"engine.name": "deepspeed", "engine.zero_stage": 2})
        found.append({"engine.name": "deepspeed", "engine.zero_stage": 3})
        if stage == "attack":
            found[-1] = {**found[-1], "engine.victim": "zero3"}
    if on_gpu:  # on a CPU the device's memory is the host's
        largest = found[-1] or {"engine.name": "deepspeed", "engine.zero_stage": 3}
        found.append({**largest, "engine.offload": True})
    return found


def _savings(stage: str, config: RunConfig, dataset: Dataset, processes: int) -> Iterator[tuple[int, bool]]:
    """Micro-batches and activation checkpointing. Of networks with batch norm a batch stays whole."""
    given = config.engine
    _, batch, pieces = batch_of(stage, config)
    with shapes_only():
        normalised = any(isinstance(module, _BatchNorm) for module in _network(stage, config, dataset).modules())
    numbers, each = [given.accumulate], processes * pieces
    if not normalised:
        more = range(given.accumulate + 1, batch // each + 1)
        numbers += [n for n in more if batch % (each * n) == 0 and n & (n - 1) == 0]
    for checkpointing in dict.fromkeys((given.activation_checkpointing, True)):
        for number in numbers:
            yield number, checkpointing


def _network(stage: str, config: RunConfig, dataset: Dataset) -> nn.Module:
    """What the stage trains."""
    architecture = ATTACKS.build(config.attack).architecture(config.model) if stage == "attack" else config.model
    return build_model(architecture, **dataset.blueprint, seed=0)


def _said(own: dict[str, Any], given: EngineConfig) -> list[str]:
    """As the command line takes it; what is as it was is left out."""
    lines = []
    for key, value in own.items():
        name = key.partition(".")[2]
        if name == "name":
            lines.append(f"engine=zero{own['engine.zero_stage']}")
        elif name != "zero_stage" and getattr(given, name) != value:
            lines.append(f"{key}={str(value).lower()}")
    return lines
