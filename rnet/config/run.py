"""A run's configuration: YAML groups composed by Hydra onto typed dataclasses, overridden, checked and resolved.

    run = load_config(["dataset=digits", "attack=removalnet", "attack.iterations=10", "seed=3"])

The dataclass of a component stands in the config.py beside it (rnet/attacks/removalnet/config.py) and holds types,
defaults and what values are refused; configs/<group>/<option>.yaml holds what an option sets differently; overrides
come last. Nothing on this path imports torch, so that thousands of runs can be planned in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnet.config.components import GROUPS, PRESETS
from rnet.config.compose import compose_options
from rnet.config.overrides import parse_overrides
from rnet.config.typed import typed_settings
from rnet.data.config import DatasetConfig
from rnet.engines.config import EngineConfig
from rnet.models.config import ModelConfig
from rnet.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One resolved run: what every stage of it is computed from."""

    dataset: DatasetConfig
    """The images and how they are split."""
    model: ModelConfig
    """The architecture of the victim (and of what is derived from it)."""
    train: TrainConfig
    """How a victim is trained."""
    attack: Any
    """The attack's own dataclass."""
    defense: Any
    """The defence's own dataclass."""
    engine: EngineConfig
    """How it is executed; never part of an id."""
    seed: int
    """The run's seed; components whose own seed is not set take this one."""
    precision: str
    """fp32; bf16 or fp16 for autocast over float32 parameters."""
    negatives: int
    """How many independently trained models calibrate a verdict."""
    false_positive_rate: float
    """How often a verdict may call one more independent model derived, 0.05 for one in twenty."""


def load_config(overrides: Sequence[str] = (), *, config_dir: Path | None = None) -> RunConfig:
    """The resolved configuration for Hydra-style overrides; config_dir adds the user's own groups and options.

    Raises UserError for unknown groups, options and keys (with the nearest valid ones) and for wrong types.
    """
    parsed = parse_overrides(overrides)
    options = [override for override in parsed if override.key_or_group in (*GROUPS, *PRESETS)]
    values = [override for override in parsed if override not in options]
    return RunConfig(**typed_settings(compose_options(options, config_dir), values))
