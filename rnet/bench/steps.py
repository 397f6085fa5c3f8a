"""The steps that stages take, of RemovalNet and of victim training, prepared to be measured one by one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnet.attacks.base import AttackContext
from rnet.attacks.removalnet.attack import RemovalNet
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.attacks.training import Training
from rnet.data.images import Dataset
from rnet.engines.base import Engine
from rnet.engines.config import EngineConfig
from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.training.config import TrainConfig
from rnet.training.loop import Run, Step
from rnet.training.victim import prepare_training


def require_removalnet(config: Any, command: str) -> RemovalNetConfig:
    """The attack's configuration. Raises UserError if it is another attack's."""
    if not isinstance(config, RemovalNetConfig):
        raise UserError(f"{command} measures RemovalNet, not attack={config.name}; leave attack= out")
    return config


def prepare_removalnet(
    attack: RemovalNet,
    victim: Classifier,
    dataset: Dataset,
    *,
    layer: str | None,
    precision: str,
    engine: EngineConfig | None = None,
    victim_forward: Callable[[Tensor], Tensor] | None = None,
) -> Training:
    """The attack on a frozen victim, on its device. engine: plain by default; victim_forward: the victim itself."""
    context = AttackContext(
        copy_of_victim=lambda: copy.deepcopy(victim), victim_forward=victim_forward or victim, train=TrainConfig(),
        default_layer=layer,
        run=_run(engine or EngineConfig(name="plain"), victim, precision), build=lambda seed: copy.deepcopy(victim),
        seed=attack.config.seed or 0,
    )  # fmt: skip
    return attack.prepare(dataset, context)


def prepare_victim_training(
    model: Classifier, dataset: Dataset, config: TrainConfig, *, precision: str, engine: EngineConfig, num_steps: int
) -> tuple[Engine, Step]:
    """Training of the model, on its device. Its schedule is stretched where it would end before num_steps."""
    epochs = math.ceil((num_steps + 1) * config.batch_size / max(len(dataset.train), 1))
    config = replace(config, epochs=max(config.epochs, epochs))
    run, seed = _run(engine, model, precision), config.seed or 0
    trained_by, step, _, _ = prepare_training(run, model, dataset.train, config, flip=dataset.flip, seed=seed)
    return trained_by, step


def _run(engine: EngineConfig, model: Classifier, precision: str) -> Run:
    """A run that is prepared only: what it would write, and where, is never asked for."""
    device: torch.device = next(model.parameters()).device
    return Run(
        folder=Path(), label="bench", config=engine, device=device, precision=precision, identity="bench",
        measure=lambda model: {}, on_checkpoint=lambda step, total: None, quiet=True,
    )  # fmt: skip
