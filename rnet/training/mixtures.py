"""Mixtures of two images and of their labels: mixup and CutMix, as functions of (seed, step, sample).

Neighbours in the training stream are mixed with one another, so that a mixture does not depend on how many processes
and micro-batches share the batch. Shapes: B samples of this process's share of a batch, C channels, H height, W width,
K classes.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from rnet.data.batches import Batch
from rnet.draws import uniform
from rnet.errors import UserError
from rnet.training.config import TrainConfig


class Mixture(Protocol):
    """A way to mix."""

    def mix(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(x, labels of the other images, shares of the own ones): (B, C, H, W), (B,), (B,)."""


def mixture_of(config: TrainConfig, seed: int) -> Mixture | None:
    """What the recipe asks for; None for images as they are."""
    mixup = Mixup(config.mixup, seed) if config.mixup else None
    cutmix = CutMix(config.cutmix, seed) if config.cutmix else None
    return InTurn(mixup, cutmix, seed) if mixup and cutmix else mixup or cutmix


class InTurn:
    """One of both, with equal chances for each step, as torchvision's and timm's recipes do for each batch."""

    def __init__(self, mixup: Mixture, cutmix: Mixture, seed: int) -> None:
        self._mixup, self._cutmix, self._seed = mixup, cutmix, seed

    def mix(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """See Mixture."""
        draw = uniform(self._seed, "mixup or cutmix", step, torch.zeros(1, dtype=torch.int64), 1, device="cpu")
        return (self._mixup if float(draw) < 0.5 else self._cutmix).mix(batch, step)


class Mixup:
    """Weighted means of two images (Zhang et al. 2018, "mixup: beyond empirical risk minimization").

    Each pair has a ratio of its own, drawn from Beta(alpha, alpha).
    """

    def __init__(self, alpha: float, seed: int) -> None:
        self._alpha, self._seed = alpha, seed

    def ratios(self, stream_ids_B: Tensor, step: int, device: torch.device) -> Tensor:
        """float32 (B,): the share of each sample's own image."""
        draws_B = uniform(self._seed, "mixup", step, stream_ids_B // 2, 1, device="cpu")[:, 0]
        own_B = torch.from_numpy(betaincinv(self._alpha, self._alpha, draws_B.double().numpy())).float()
        return torch.where(stream_ids_B % 2 == 0, own_B, 1 - own_B).to(device)

    def mix(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """See Mixture. Raises UserError for half a pair."""
        other_B = _neighbours(batch.stream_ids_B, f"train.mixup={self._alpha}").to(batch.x_BCHW.device)
        share_B = self.ratios(batch.stream_ids_B, step, batch.x_BCHW.device)
        weight_B111 = share_B.view(-1, 1, 1, 1)
        return weight_B111 * batch.x_BCHW + (1 - weight_B111) * batch.x_BCHW[other_B], batch.labels_B[other_B], share_B


class CutMix:
    """A box of one image pasted into another (Yun et al. 2019, "CutMix: Regularization Strategy ...").

    Each image has a box of its own: of the share 1 - lambda of the area, lambda drawn from Beta(alpha, alpha), about a
    place anywhere in the image, and cut off at its edges. Labels are mixed by the share that was really pasted.
    """

    def __init__(self, alpha: float, seed: int) -> None:
        self._alpha, self._seed = alpha, seed

    def boxes(self, stream_ids_B: Tensor, step: int, height: int, width: int) -> Tensor:
        """int64 (B, 4) on the CPU: top, left, bottom and right, the last two beyond the box."""
        draws_B3 = uniform(self._seed, "cutmix", step, stream_ids_B, 3, device="cpu").double()
        kept_B = torch.from_numpy(betaincinv(self._alpha, self._alpha, draws_B3[:, 0].numpy()))
        return boxes(kept_B, draws_B3[:, 1:], height, width)

    def mix(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """See Mixture. Raises UserError for half a pair."""
        other_B = _neighbours(batch.stream_ids_B, f"train.cutmix={self._alpha}").to(batch.x_BCHW.device)
        height, width = batch.x_BCHW.shape[-2:]
        boxes_B4 = self.boxes(batch.stream_ids_B, step, height, width)
        top_B1, left_B1, bottom_B1, right_B1 = boxes_B4.to(batch.x_BCHW.device).split(1, dim=1)
        rows_H = torch.arange(height, device=batch.x_BCHW.device)
        columns_W = torch.arange(width, device=batch.x_BCHW.device)
        inside_BH, inside_BW = (
            (rows_H >= top_B1) & (rows_H < bottom_B1), (columns_W >= left_B1) & (columns_W < right_B1)
        )  # fmt: skip
        pasted_B1HW = (inside_BH[:, :, None] & inside_BW[:, None, :]).unsqueeze(1)
        area_B = (boxes_B4[:, 2] - boxes_B4[:, 0]) * (boxes_B4[:, 3] - boxes_B4[:, 1])
        share_B = (1 - area_B.double() / (height * width)).float().to(batch.x_BCHW.device)
        x_BCHW = torch.where(pasted_B1HW, batch.x_BCHW[other_B], batch.x_BCHW)
        return x_BCHW, batch.labels_B[other_B], share_B


def boxes(kept_B: Tensor, places_B2: Tensor, height: int, width: int) -> Tensor:
    """int64 (B, 4): the boxes of CutMix, as torchvision's computes them, from lambda and centres (row, column).

    kept_B: float64 in [0, 1]. places_B2: float64 in [0, 1), shares of height and width.
    """
    size_2 = torch.tensor([height, width])
    half_B2 = (0.5 * (1 - kept_B).sqrt()[:, None] * size_2).long()
    centre_B2 = torch.minimum((places_B2 * size_2).long(), size_2 - 1)
    low_B2, high_B2 = (centre_B2 - half_B2).clamp(min=0), torch.minimum(centre_B2 + half_B2, size_2)
    return torch.cat([low_B2, high_B2], dim=1)


def _neighbours(stream_ids_B: Tensor, setting: str) -> Tensor:
    """int64 (B,): where the other image of each pair is. Raises UserError for half a pair."""
    other_B = torch.arange(len(stream_ids_B)) ^ 1
    if len(stream_ids_B) % 2 or not torch.equal(stream_ids_B[other_B], stream_ids_B ^ 1):
        raise UserError(
            f"{setting} mixes pairs of images, but the {len(stream_ids_B)} of a batch that each process has hold half "
            f"a pair; choose train.batch_size so that each process and micro-batch has an even number"
        )
    return other_B


def mixed_cross_entropy(
    logits_BK: Tensor, own_B: Tensor, other_B: Tensor, share_B: Tensor, *, label_smoothing: float
) -> Tensor:
    """The mean over the batch of both labels' cross entropies, in the shares of their images."""
    losses = [
        F.cross_entropy(logits_BK, y_B, label_smoothing=label_smoothing, reduction="none") for y_B in (own_B, other_B)
    ]
    return (share_B * losses[0] + (1 - share_B) * losses[1]).mean()
