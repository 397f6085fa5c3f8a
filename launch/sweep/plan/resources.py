"""What a stage needs (its shape), and the file that says where it may get it (a profile, configs/cluster/*.yaml)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnet.config.values import typed_fields
from rnet.config.yaml_files import Table, read_mapping
from rnet.errors import UserError, unknown_name

_TIME = re.compile(r"(?:([0-9]{1,4})-)?([0-9]{1,6})(?::([0-9]{1,4}))?(?::([0-9]{1,4}))?")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What one task needs. Stages of the same shape share arrays."""

    nodes: int = 1
    """Nodes of a task; above 1 the stage must be able to run on several processes."""
    processes: int = 1
    """Processes on each node, one for each GPU."""
    gpus: int = 0
    """GPUs of each process, 0 or 1."""
    cpus: int = 1
    """CPUs of each process."""
    memory_gb: float = 4.0
    """Memory of each node."""
    minutes: int = 60
    """Time limit; in a sweep file also as Slurm writes it: 24:00:00, 1-12. A stage that needs longer goes on from its
    checkpoint in the next incarnation."""
    pack: int = 1
    """Cells that one task computes one after the other; for stages of a few seconds."""

    def __post_init__(self) -> None:
        for name in ("nodes", "processes", "cpus", "minutes", "pack"):
            if getattr(self, name) < 1:
                raise UserError(f"resources: {name}={getattr(self, name)} must be at least 1")
        if self.gpus not in (0, 1):
            raise UserError(f"resources: gpus={self.gpus} per process must be 0 or 1; use processes for more GPUs")
        if self.memory_gb <= 0:
            raise UserError(f"resources: memory_gb={self.memory_gb} must be above 0")
        if self.pack > 1 and self.nodes * self.processes > 1:
            raise UserError(f"resources: pack={self.pack} is for tasks of one process; take pack or processes out")

    def __str__(self) -> str:
        where = f"{self.nodes} x {self.processes} processes, " if self.nodes * self.processes > 1 else ""
        gpus = f"{self.gpus} GPU, " if self.gpus else ""
        packed = f", {self.pack} cells a task" if self.pack > 1 else ""
        return f"{where}{gpus}{self.cpus} CPU, {self.memory_gb:g} GB, {self.minutes} min{packed}"


def make_shape(needs: Mapping[str, Any]) -> Shape:
    """The shape with these settings. Raises UserError for unknown ones and wrong types."""
    if "minutes" in needs:
        needs = {**needs, "minutes": _minutes(needs["minutes"])}
    return Shape(**typed_fields("resources key", Shape, needs))


def load_profile(name: str, folders: Sequence[Path]) -> Table:
    """The settings in cluster/<name>.yaml of one of the folders, the last folder first, as the file has them.

    The cluster of that kind checks them (launch/sweep/clusters/base.py). Raises UserError.
    """
    for folder in reversed(folders):
        path = folder / "cluster" / f"{name}.yaml"
        if path.is_file():
            found = read_mapping(path)
            if not isinstance(found.get("kind"), str):
                raise UserError(f"{path}, line 1, column 1: a profile says its kind, e.g. kind: slurm")
            return found
    known = {path.stem for folder in folders for path in (folder / "cluster").glob("*.yaml")}
    raise unknown_name("cluster", name, known)


def _minutes(value: Any) -> Any:
    """Minutes, rounded up, of a time as Slurm writes it; anything else as it is.

    Slurm's: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
    """
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0, *(*numbers, 0)[:2]
    return int(days or 0) * 1440 + hours * 60 + minutes + -(-seconds // 60)
