"""RemovalNet ready for its first step, on a small network."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from rnet.attacks.base import AttackContext
from rnet.attacks.removalnet.attack import RemovalNet
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.attacks.training import Training
from rnet.data.images import Dataset
from rnet.engines.config import EngineConfig
from rnet.models.classifier import Classifier
from rnet.training.config import TrainConfig
from rnet.training.loop import Run

CONFIG = RemovalNetConfig(seed=1, substitute_size=48, iterations=5, batch_size=16, num_poison_steps=20, rho=0.3)


def prepared(
    dataset: Dataset,
    victim: Classifier,
    layer: str | None,
    folder: Path,
    engine: EngineConfig,
    *,
    device: str = "cpu",
    quiet: bool = True,
) -> tuple[RemovalNet, Training]:
    """The attack and what it prepared, with seed 1."""
    victim.requires_grad_(False)
    run = Run(
        folder=folder, label="test", config=engine, device=torch.device(device), precision="fp32", identity="test",
        measure=lambda model: {}, on_checkpoint=lambda step, total: None, quiet=quiet,
    )  # fmt: skip
    context = AttackContext(
        copy_of_victim=lambda: copy.deepcopy(victim), victim_forward=victim, train=TrainConfig(),
        default_layer=layer, run=run, seed=1,
        build=lambda seed: copy.deepcopy(victim),
    )  # fmt: skip
    attack = RemovalNet(CONFIG)
    return attack, attack.prepare(dataset, context)
