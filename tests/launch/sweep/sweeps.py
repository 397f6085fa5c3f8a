"""Sweep files for tests: the smallest runs, and a plan of them without any cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.plan import Plan
from rnet.storage.manifest import write_manifest

TINY: dict[str, Any] = {
    "name": "tiny",
    "set": [
        "dataset.image_size=8", "dataset.train_size=200", "dataset.test_size=120", "dataset.substitute_pool=64",
        "model.width=4", "train.epochs=2", "train.batch_size=50", "engine.device=cpu", "engine.eval_every=10",
        "engine.log_every=2",
    ],
    "axes": {
        "dataset": ["digits"],
        "model": ["resnet8"],
        "attack": ["identity", "finetune"],
        "defense": ["ipguard", "random"],
        "seed": [0],
    },
    "cases": [
        {
            "when": {"attack": "finetune"},
            "set": ["attack.substitute_size=48", "attack.iterations=4", "attack.batch_size=16"],
        },
        {"when": {"defense": "ipguard"}, "set": ["defense.num_queries=8", "defense.steps=20"]},
    ],
}  # fmt: skip


def write_sweep(folder: Path, **changes: Any) -> Path:
    """The tiny sweep in a file, with keys replaced; None takes a key out."""
    document = {key: value for key, value in (TINY | changes).items() if value is not None}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def tiny_plan(folder: Path, *overrides: str, **changes: Any) -> Plan:
    """The tiny sweep's plan."""
    return make_plan(write_sweep(folder, **changes), overrides)


def finish(root: Path, label: str, result: str = "{}") -> None:
    """Puts a result into the store, as if the cell had been computed."""
    folder = root / label
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("{}\n")
    write_manifest(folder, {"result.json": result.encode()})
    (folder / "result.json").write_text(result)
