"""One stage, run for its memory: python -m rnet.bench.memory_rank CASE RESULT.

CASE is a JSON file with the fields of Case; RESULT gets those of Found. The stage runs twice in a store of its own,
after its parents: for the resident size of the process, then for the bytes that torch's allocator hands out.
"""

from __future__ import annotations

import ctypes
import gc
import json
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from rnet.attacks.config import AttackConfig
from rnet.bench.allocated import peak_allocated
from rnet.bench.memory import resident_bytes
from rnet.command.guarded import guarded
from rnet.config.run import RunConfig, load_config
from rnet.data.loading import load_dataset_once
from rnet.planning.plan import plan_stage
from rnet.stages.graph import GRAPH
from rnet.stages.memory import peak_memory, start_peak
from rnet.stages.stages import ensure
from rnet.stages.store import Store
from rnet.training.config import TrainConfig

T = TypeVar("T", bound=TrainConfig | AttackConfig)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A stage of the run that the overrides name."""

    stage: str
    overrides: list[str]
    config_dir: str | None

    def config(self) -> RunConfig:
        """The run, resolved, with no more epochs and iterations than show what it takes."""
        found = load_config(self.overrides, config_dir=Path(self.config_dir) if self.config_dir else None)
        return replace(found, train=_short(found.train), attack=_short(found.attack))


@dataclass(frozen=True, kw_only=True)
class Found:
    """Bytes above what was there before the stage began. planned: without images, which are loaded before.

    resident: the peak of the process's resident size.
    """

    planned: int
    moment: str
    allocated: int
    resident: int


def measure(case: Case) -> Found:
    """Plans the stage, then runs it twice."""
    config = case.config()
    import_module("torch._dynamo")  # optimizers load it, a hundred MiB and more: before memory is watched
    plan = plan_stage(case.stage, config, load_dataset_once(config.dataset))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for parent in GRAPH[case.stage].parents.values():
            ensure(parent, config, store)
        before = _settled()
        start_peak()
        path = ensure(case.stage, config, store).path
        resident = peak_memory()["host"] - before
        shutil.rmtree(path)
        _settled()
        with peak_allocated() as allocated:
            ensure(case.stage, config, store)
    return Found(planned=plan.total - plan.images, moment=plan.moment, allocated=allocated["bytes"], resident=resident)


def _short(config: T) -> T:
    lengths = {name: min(getattr(config, name), 2) for name in ("epochs", "iterations") if hasattr(config, name)}
    return replace(config, **lengths)


def _settled() -> int:
    """The resident size once what nobody holds is given back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):  # of glibc only
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def main() -> int:
    """Measures, and returns the exit status."""
    case_file, result_file = (Path(argument) for argument in sys.argv[1:])
    case = Case(**json.loads(case_file.read_text()))

    def write() -> None:
        result_file.write_text(json.dumps(asdict(measure(case))))

    return guarded(write)


if __name__ == "__main__":
    sys.exit(main())
