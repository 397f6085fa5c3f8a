"""The graph of stages, once: their names, their parents, and the documents whose content is the id.

    train -> attack -------+
       |                   +-> verify
       +-> fingerprint ----+

Whoever runs, plans or lists stages asks this file. No torch here: planning needs no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rnet.attacks.independent.config import IndependentConfig
from rnet.config.components import GROUPS
from rnet.config.documents import hashed
from rnet.config.run import RunConfig
from rnet.errors import UserError

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage is computed from: its parents, and what it reads of the configuration itself.

    method: part of every id; raised whenever a change of the code changes the stage's results. own: groups and
    top-level keys of RunConfig. parents: the name of each parent in its document -> the parent's stage; built in order.
    """

    method: int
    own: tuple[str, ...]
    parents: Mapping[str, str]


GRAPH: Mapping[str, Stage] = {
    "train": Stage(method=2, own=("dataset", "model", "train", "precision"), parents={}),
    "attack": Stage(method=2, own=("attack", "precision"), parents={"victim": "train"}),
    "fingerprint": Stage(method=2, own=("defense", "seed"), parents={"victim": "train"}),
    "verify": Stage(method=2, own=(), parents={"suspect": "attack", "fingerprint": "fingerprint"}),
}
"""Parents stand before their children."""

STAGE_NAMES = tuple(GRAPH)


def lineage(stage: str) -> tuple[str, ...]:
    """The stage and all that it needs, each after its parents."""
    needed = {stage}
    for name in reversed(STAGE_NAMES):
        if name in needed:
            needed.update(GRAPH[name].parents.values())
    return tuple(name for name in STAGE_NAMES if name in needed)


def ingredients(stage: str) -> tuple[str, ...]:
    """The groups and top-level keys of RunConfig that the stage or one of its ancestors reads."""
    return tuple(dict.fromkeys(key for name in lineage(stage) for key in GRAPH[name].own))


def document(stage: str, config: RunConfig) -> Document:
    """What a stage is computed from: its own settings, and its parents' documents."""
    found: Document = {"stage": stage, "method": GRAPH[stage].method}
    for key in GRAPH[stage].own:
        value = getattr(config, key)
        found[key] = value if isinstance(value, str | int) else hashed(key, value)
    if "model" in found and config.model.weights:
        found["model"]["weights_sha256"] = _file_digest(config.model.weights)
        if config.model.weights_key is not None:
            found["model"]["weights_key"] = config.model.weights_key
    return found | {key: document(parent, config) for key, parent in GRAPH[stage].parents.items()}


def check_settings(stage: str, config: RunConfig) -> None:
    """Raises UserError for a setting of the stage or of its ancestors that is out of range; builds nothing."""
    for key in ingredients(stage):
        if key in GROUPS:
            getattr(config, key).check()


def negative_configs(config: RunConfig) -> list[RunConfig]:
    """The run's negatives: independently trained models whose seeds no other run shares."""
    seeds = [1000 * (config.seed + 1) + number for number in range(config.negatives)]
    return [replace(config, attack=IndependentConfig(seed=seed)) for seed in seeds]


def hyperparameters(document: Document) -> dict[str, Any]:
    """A stage's settings for a table of many runs: flat, the same names in every stage, without what is not set.

    A component's name stands under its group ({"attack": "finetune", "attack.batch_size": 64, ...}); what the victim
    was made from stands beside it.
    """
    found = hyperparameters(document["victim"]) if "victim" in document else {}
    for group, value in document.items():
        if isinstance(value, dict) and group != "victim":
            given = {key: setting for key, setting in value.items() if setting not in (None, [])}
            found |= {group if key == "name" else f"{group}.{key}": setting for key, setting in given.items()}
        elif group not in ("method", "victim"):
            found[group] = value
    return found


def _file_digest(path: str) -> str:
    """The file's SHA-256. Every document of a victim with imported weights needs it, so it is read once."""
    try:
        file = Path(path).expanduser()
        about = file.stat()
        return _digest(file, about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise UserError(f"model.weights={path!r}: {error.strerror}; name a file of weights") from None


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, mtime_ns: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
