"""What each stage is computed from: the documents whose content is the id. No torch here: planning needs no more.

Also the negatives of a run, which are configurations derived from its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnet.attacks.independent.config import IndependentConfig
from rnet.config.run import RunConfig, as_dict
from rnet.errors import UserError

Document = dict[str, Any]

METHOD_VERSIONS = {"train": 2, "attack": 2, "fingerprint": 2, "verify": 2}
"""Part of every id: a stage's is raised whenever a change of the code changes its results."""


def train_document(config: RunConfig) -> Document:
    """What a victim is computed from."""
    model = as_dict(config.model, hashed_only=True)
    if config.model.weights:
        model["weights_sha256"] = _file_digest(config.model.weights)
    return {
        "stage": "train",
        "method": METHOD_VERSIONS["train"],
        "dataset": as_dict(config.dataset, hashed_only=True),
        "model": model,
        "train": as_dict(config.train, hashed_only=True),
        "precision": config.precision,
    }


def attack_document(config: RunConfig) -> Document:
    """What a suspect is computed from: its victim's document and the attack."""
    return {
        "stage": "attack",
        "method": METHOD_VERSIONS["attack"],
        "victim": train_document(config),
        "attack": as_dict(config.attack, hashed_only=True),
        "precision": config.precision,
    }


def fingerprint_document(config: RunConfig) -> Document:
    """What a fingerprint is computed from: its victim's document and the defence."""
    return {
        "stage": "fingerprint",
        "method": METHOD_VERSIONS["fingerprint"],
        "victim": train_document(config),
        "defense": as_dict(config.defense, hashed_only=True),
        "seed": config.seed,
    }


def verify_document(config: RunConfig) -> Document:
    """What scores are computed from: a fingerprint's document and a suspect's."""
    return {
        "stage": "verify",
        "method": METHOD_VERSIONS["verify"],
        "fingerprint": fingerprint_document(config),
        "suspect": attack_document(config),
    }


DOCUMENTS: dict[str, Callable[[RunConfig], Document]] = {
    "train": train_document,
    "attack": attack_document,
    "fingerprint": fingerprint_document,
    "verify": verify_document,
}


def negative_configs(config: RunConfig) -> list[RunConfig]:
    """The run's negatives: independently trained models whose seeds no other run shares."""
    seeds = [1000 * (config.seed + 1) + number for number in range(config.negatives)]
    return [replace(config, attack=IndependentConfig(seed=seed)) for seed in seeds]


def _file_digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"model.weights={path!r}: {error.strerror}; name a .safetensors or .pt file") from None


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
