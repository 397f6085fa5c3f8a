"""What a training recipe names: its views of the images, its optimizer and its schedule."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from rnet.data.views import Views
from rnet.training.config import TrainConfig


def views_of(config: TrainConfig) -> Views | None:
    """How images are shown, beyond shifts and mirrors; None for as they are."""
    if config.crop_scale is None and not config.rand_augment:
        return None
    scale = None if config.crop_scale is None else (config.crop_scale[0], config.crop_scale[1])
    return Views(crop_scale=scale, rand_augment=config.rand_augment)


def optimizer_of(
    config: TrainConfig, model: nn.Module, num_steps: int, num_images: int
) -> tuple[Optimizer, LRScheduler]:
    """The optimizer, and the schedule of its learning rate over num_steps steps of a part of num_images images."""
    optimizer: Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.learning_rate, momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0, weight_decay=config.weight_decay,
        )  # fmt: skip
    if config.schedule == "cosine":
        warmup = min(num_steps, round(config.warmup_epochs * num_images / config.batch_size))
        return optimizer, LambdaLR(optimizer, lambda step: cosine(step, num_steps, warmup))
    if config.schedule == "step":
        passes = config.step_epochs
        return optimizer, LambdaLR(optimizer, lambda step: 0.1 ** (step * config.batch_size // num_images // passes))
    total = num_steps + 1
    return optimizer, OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=total, cycle_momentum=False)


def cosine(step: int, num_steps: int, warmup: int) -> float:
    """The learning rate's share of its peak: straight up over the warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, num_steps - warmup))))
