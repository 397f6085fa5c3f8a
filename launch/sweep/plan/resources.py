"""What a stage needs (its shape), and the file that says where it may get it (a profile, configs/cluster/*.yaml)."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from rnet.errors import UserError, unknown_name


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
    """Time limit. A stage that needs longer goes on from its checkpoint in the next incarnation."""
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
    return Shape(**checked_settings("resources key", needs, Shape))


def load_profile(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """The settings in cluster/<name>.yaml of one of the folders, the last folder first; their `kind` is a text.

    The cluster of that kind checks the others (launch/sweep/clusters/base.py). Raises UserError.
    """
    for folder in reversed(folders):
        path = folder / "cluster" / f"{name}.yaml"
        if path.is_file():
            try:
                document = yaml.safe_load(path.read_text())
            except yaml.YAMLError as error:
                raise UserError(f"{path}: {' '.join(str(error).split())}") from None
            if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
                raise UserError(f"{path}: a profile maps names to values and has a kind, e.g. kind: slurm")
            return document
    known = {path.stem for folder in folders for path in (folder / "cluster").glob("*.yaml")}
    raise unknown_name("cluster", name, known)


def checked_settings(what: str, values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The values, if each is a field of the dataclass and of its type. what: how errors call a key.

    Raises UserError for unknown keys (with the nearest valid ones) and for wrong types.
    """
    types = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]
    found = {}
    for key, value in values.items():
        if key not in names:
            raise unknown_name(what, key, names)
        if types[key] is float and type(value) is int:
            value = float(value)
        options = typing.get_args(types[key]) if isinstance(types[key], UnionType) else (types[key],)
        allowed = tuple(typing.get_origin(option) or option for option in options)
        if (isinstance(value, bool) and bool not in allowed) or not isinstance(value, allowed):
            names_of_types = " or ".join("null" if option is type(None) else option.__name__ for option in allowed)
            raise UserError(f"{key}={value!r} must be of type {names_of_types}")
        found[key] = value
    return found
