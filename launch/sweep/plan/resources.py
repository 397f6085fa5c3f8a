"""What a stage needs (its shape) and where it may get it (a cluster profile, configs/cluster/*.yaml)."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from rnet.errors import UserError, unknown_name

KINDS = ("slurm", "local", "mpi")


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


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A place where sweeps run."""

    kind: str
    """slurm, local (processes on this machine) or mpi (one allocation, cells handed out to ranks)."""
    partition: str | None = None
    """Slurm partition."""
    account: str | None = None
    """Slurm account."""
    qos: str | None = None
    """Slurm quality of service."""
    constraint: str | None = None
    """Slurm node features, e.g. a100."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the task: modules, environments, variables."""
    python: str | None = None
    """The command that stands for python, e.g. apptainer exec --nv rnet.sif python; null: this interpreter."""
    max_parallel: int = 256
    """Tasks of an array that may run at once."""
    max_array_size: int = 1000
    """Tasks of one array; the smaller of this and what Slurm allows (MaxArraySize) counts."""
    max_submissions: int = 20
    """sbatch calls for one sweep. More calls make finer dependencies: victims share arrays only when they must."""
    signal_seconds: int = 90
    """How long before the time limit a task is told to save and requeue."""
    crash_requeues: int = 2
    """How often a task that was killed by a signal is started again by its own job script."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Any other sbatch option, by its long name."""
    workers: int = 0
    """local: processes at once; 0 for one per GPU, or per CPU core where there is no GPU. mpi: ranks that compute."""
    mpiexec: list[str] = field(default_factory=lambda: ["mpiexec", "-n", "{ranks}"])
    """mpi: what starts the ranks; {ranks} is workers + 1, for one rank hands out the cells."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("cluster kind", self.kind, KINDS)
        for name in ("max_parallel", "max_array_size", "max_submissions", "signal_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")


def make_shape(needs: Mapping[str, Any]) -> Shape:
    """The shape with these settings. Raises UserError for unknown ones and wrong types."""
    return Shape(**_checked("resources key", needs, Shape))


def load_profile(name: str, folders: Sequence[Path]) -> Profile:
    """The profile that cluster/<name>.yaml in one of the folders describes, the last folder first."""
    for folder in reversed(folders):
        path = folder / "cluster" / f"{name}.yaml"
        if path.is_file():
            try:
                document = yaml.safe_load(path.read_text())
                if not isinstance(document, dict) or "kind" not in document:
                    raise UserError("a profile maps names to values and has a kind: " + ", ".join(KINDS))
                return Profile(**_checked("key", document, Profile))
            except (yaml.YAMLError, UserError) as error:
                raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    known = {path.stem for folder in folders for path in (folder / "cluster").glob("*.yaml")}
    raise unknown_name("cluster", name, known)


def _checked(place: str, values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    types = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]
    found = {}
    for key, value in values.items():
        if key not in names:
            raise unknown_name(place, key, names)
        if types[key] is float and type(value) is int:
            value = float(value)
        options = typing.get_args(types[key]) if isinstance(types[key], UnionType) else (types[key],)
        allowed = tuple(typing.get_origin(option) or option for option in options)
        if isinstance(value, bool) or not isinstance(value, allowed):
            names_of_types = " or ".join("null" if option is type(None) else option.__name__ for option in allowed)
            raise UserError(f"{key}={value!r} must be of type {names_of_types}")
        found[key] = value
    return found
