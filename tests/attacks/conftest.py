"""A victim of tiny digits, which every test finds as it was, and what an attack on it is given."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rnet.attacks.base import AttackContext
from rnet.data.images import Dataset
from rnet.data.loading import load_dataset
from rnet.engines.config import EngineConfig
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.stages import stages
from rnet.training.config import TrainConfig
from rnet.training.loop import Run
from tests.tiny_runs import tiny


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return load_dataset(tiny().dataset)


@pytest.fixture
def victim(dataset: Dataset) -> Iterator[Classifier]:
    model = stages.build(ModelConfig(width=4), dataset, seed=3).train()
    with torch.no_grad():
        model(dataset.train.pixels())  # moves the batch norms off their initial statistics
    model.eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    yield model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the victim changed"
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def context(victim: Classifier, dataset: Dataset, tmp_path: Path) -> AttackContext:
    run = Run(
        folder=tmp_path, label="test", config=EngineConfig(), device=torch.device("cpu"), precision="fp32",
        identity="test", measure=lambda model: {}, on_checkpoint=lambda step, total: None, quiet=True,
    )  # fmt: skip
    return AttackContext(
        copy_of_victim=lambda: copy.deepcopy(victim), victim_forward=victim,
        train=TrainConfig(epochs=1, batch_size=50), default_layer="layer1", run=run, seed=1,
        build=lambda seed: stages.build(ModelConfig(width=4), dataset, seed),
    )  # fmt: skip
