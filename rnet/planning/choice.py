"""engine=auto on several processes: data parallelism where it fits the device, else ZeRO-3."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from rnet.config.run import RunConfig
from rnet.data.images import Dataset
from rnet.engines.config import EngineConfig
from rnet.errors import UserError
from rnet.parallel.collectives import gather_values, rank, same_on_all, world_size
from rnet.parallel.launch import launched
from rnet.planning.plan import plan_stage
from rnet.training.loop import resolve_device

logger = logging.getLogger(__name__)

SHARE_OF_MEMORY = 0.9
"""The rest is for what is not planned: libraries, and holes between tensors."""
_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""Of the files of a control group, by version: the limit, what is used, and the line of memory.stat."""
_COPIES = 4
"""Weights, gradients, momentum and the victim, or the frozen copy: what ZeRO-3 divides."""
_WORTH_DIVIDING = 0.1
"""Of the memory: where all that could be divided takes less, dividing it would not make a run fit."""


def decided_engine(stage: str, config: RunConfig, dataset: Dataset, model: nn.Module) -> EngineConfig:
    """The configuration with `auto` decided by the plan of the stage; called by all processes. model: its network."""
    engine, processes = config.engine, world_size()
    if engine.name != "auto" or processes == 1:
        return engine
    whole = replace(engine, name="ddp")
    device = resolve_device(engine.device)
    room = device_memory(device)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if _COPIES * weights < _WORTH_DIVIDING * room:
        return whole
    needed = 0
    if rank() == 0:
        try:
            plan = plan_stage(stage, replace(config, engine=whole), dataset, processes)
            needed = plan.total - (plan.images if device.type == "cpu" else 0)  # they are in the host's memory already
        except UserError:  # no plan is made of what depends on the images
            needed = _COPIES * weights
    needed = same_on_all(needed)
    fits = needed <= SHARE_OF_MEMORY * room
    if rank() == 0:
        logger.info(
            "engine=auto: %s, as a whole network on each process takes %.1f of the %.1f GiB there are for it",
            "ddp" if fits else "parameters are divided (ZeRO-3)", needed / 2**30, room / 2**30,
        )  # fmt: skip
    return whole if fits else replace(engine, name="deepspeed", zero_stage=3, victim="zero3")


def device_memory(device: torch.device) -> int:
    """Bytes that one process may use: of its GPU all; of a CPU's memory what is available, divided among its processes.

    The smallest over all processes, so that they agree.
    """
    if device.type == "cuda":
        own = int(torch.cuda.get_device_properties(device).total_memory)
    else:
        own = _available() // (launched().local_world_size or world_size())
    return min(gather_values(own))


def _available() -> int:
    """Bytes that this process can still get: of the host's memory, and under the limits of its control groups."""
    found = list(_left_in_groups())
    with suppress(OSError, StopIteration):
        lines = (_PROC / "meminfo").read_text().splitlines()
        found.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    return min(found, default=2**62)


def _left_in_groups() -> Iterator[int]:
    """Of each control group that the process is in, and of those around them, what its limit leaves.

    Files that were read and could be forgotten count as free, as they do in MemAvailable.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        version, root = (1, _GROUPS / "memory") if controllers else (2, _GROUPS)
        limit, used, forgettable = _NAMES[version]
        parts = Path(path.strip("/")).parts
        for depth in range(len(parts) + 1):
            folder = root.joinpath(*parts[:depth])
            with suppress(OSError, ValueError):  # the outermost has no limit, and others say "max"
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                said = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(0, left + int(said.get(forgettable, 0)))
