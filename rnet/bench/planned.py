"""What `rnet plan memory` says of stages, against what they take when they run, each in a process of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rnet.bench.local_processes import run_processes
from rnet.bench.memory_rank import Case
from rnet.config.overrides import expand_choices
from rnet.stages.graph import named_stages

_SEVERAL = ("model", "attack", "defense")


def bench_memory(overrides: Sequence[str], *, config_dir: Path | None, threads: int) -> list[dict[str, Any]]:
    """One row for each stage and combination: stage, run (the overrides that tell rows apart), moment, and in bytes
    planned, allocated and resident (see memory_rank.py); ratio: planned by allocated.

    These keys take several values: stage=train,attack (the default), model, attack and defense.
    """
    stages = next((line.partition("=")[2] for line in overrides if line.startswith("stage=")), "train,attack")
    rest = [line for line in overrides if not line.startswith("stage=")]
    rows = []
    for stage in named_stages(stages):
        for lines in expand_choices(rest, _SEVERAL):
            case = Case(stage=stage, overrides=lines, config_dir=str(config_dir) if config_dir else None)
            found = _measure(case, threads)
            chosen = " ".join(line for line in lines if line.partition("=")[0] in _SEVERAL)
            rows.append({"stage": stage, "run": chosen, **found, "ratio": found["planned"] / found["allocated"]})
    return rows


def _measure(case: Case, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        case_file, result_file = Path(folder) / "case.json", Path(folder) / "result.json"
        case_file.write_text(json.dumps(asdict(case)))
        program = ["-m", "rnet.bench.memory_rank", str(case_file), str(result_file)]
        run_processes(program, 1, threads=threads, what=f"rnet bench memory stage={case.stage}")
        found: dict[str, Any] = json.loads(result_file.read_text())
        return found
