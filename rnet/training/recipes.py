"""What a training recipe names: its views of the images, its optimizer and schedule, and mixtures of images.

Shapes: B samples of this process's share of a batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from rnet.data.batches import Batch
from rnet.data.views import Views
from rnet.draws import uniform
from rnet.errors import UserError
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
            model.parameters(), lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
        )  # fmt: skip
    if config.schedule == "cosine":
        warmup = min(num_steps, round(config.warmup_epochs * num_images / config.batch_size))
        return optimizer, LambdaLR(optimizer, lambda step: cosine(step, num_steps, warmup))
    total = num_steps + 1
    return optimizer, OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=total, cycle_momentum=False)


def cosine(step: int, num_steps: int, warmup: int) -> float:
    """The learning rate's share of its peak: straight up over the warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, num_steps - warmup))))


class Mixup:
    """Mixtures of two images and of their labels (Zhang et al. 2018, "mixup: beyond empirical risk minimization").

    Neighbours in the training stream are mixed with one another, each pair in a ratio of its own, drawn from
    Beta(alpha, alpha), so that a mixture does not depend on how many processes share the batch.
    """

    def __init__(self, alpha: float, seed: int) -> None:
        self._alpha, self._seed = alpha, seed

    def ratios(self, stream_ids_B: Tensor, step: int, device: torch.device) -> Tensor:
        """float32 (B,): the share of each sample's own image. Raises UserError for half a pair."""
        if len(stream_ids_B) % 2 or int(stream_ids_B[0]) % 2:
            raise UserError(
                f"train.mixup={self._alpha} mixes pairs of images, but each process has {len(stream_ids_B)} of a "
                f"batch; choose train.batch_size so that it is an even number"
            )
        draws_B = uniform(self._seed, "mixup", step, stream_ids_B // 2, 1, device="cpu")[:, 0]
        own_B = torch.from_numpy(betaincinv(self._alpha, self._alpha, draws_B.double().numpy())).float()
        return torch.where(stream_ids_B % 2 == 0, own_B, 1 - own_B).to(device)

    def mix(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(x, labels of the other images, shares of the own ones): (B, C, H, W), (B,), (B,)."""
        share_B = self.ratios(batch.stream_ids_B, step, batch.x_BCHW.device)
        other_B = torch.arange(len(share_B), device=share_B.device) ^ 1
        weight_B111 = share_B.view(-1, 1, 1, 1)
        return weight_B111 * batch.x_BCHW + (1 - weight_B111) * batch.x_BCHW[other_B], batch.labels_B[other_B], share_B


def mixed_cross_entropy(
    logits_BK: Tensor, own_B: Tensor, other_B: Tensor, share_B: Tensor, *, label_smoothing: float
) -> Tensor:
    """The mean over the batch of both labels' cross entropies, in the shares of their images."""
    losses = [
        F.cross_entropy(logits_BK, y_B, label_smoothing=label_smoothing, reduction="none") for y_B in (own_B, other_B)
    ]
    return (share_B * losses[0] + (1 - share_B) * losses[1]).mean()
