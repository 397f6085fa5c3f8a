"""Functions that answer for a suspect, as users write them; the weights are the file that GIVEN_SUSPECT names."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rnet.data.loading import load_dataset_once
from rnet.models.classifier import Classifier
from rnet.models.weights import load_weights
from rnet.stages.models import build
from tests.tiny_runs import tiny


@cache
def network() -> Classifier:
    config = tiny()
    model = build(config.model, load_dataset_once(config.dataset), seed=0)
    model.load_exported(load_weights(os.environ["GIVEN_SUSPECT"]))
    return model.eval()


def labels(x_BCHW: Tensor) -> Any:
    return network()(x_BCHW).argmax(dim=1).tolist()


@torch.no_grad()
def probabilities(x_BCHW: Tensor) -> Any:
    return network()(x_BCHW).softmax(dim=1).numpy()


def logits(x_BCHW: Tensor) -> Any:
    return network()(x_BCHW)


def of_six_classes(x_BCHW: Tensor) -> Any:
    return network()(x_BCHW)[:, :6]


def wavering(x_BCHW: Tensor) -> Any:
    return torch.randint(0, 10, (len(x_BCHW),))


def broken(x_BCHW: Tensor) -> Any:
    raise ConnectionError("the service is down")
