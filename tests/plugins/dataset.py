"""A dataset in one file: stripes, whose direction is the class.

rnet train dataset=mylab.dataset:load_stripes dataset.classes=3
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rnet import DatasetConfig, RawImages, TensorSource, UserError


@dataclass(frozen=True, kw_only=True)
class StripesConfig(DatasetConfig):
    """The keys of this dataset, beside those of all: sizes, the split, the attacker's pool."""

    classes: int = 4
    """Directions of the stripes, evenly spaced."""
    images: int = 600
    """How many there are of all classes together."""

    def check(self) -> None:
        """Refuses what cannot be a classification."""
        super().check()
        if not 2 <= self.classes <= self.images:
            raise UserError(f"dataset.classes={self.classes} must be at least 2, and no more than dataset.images")


def load_stripes(config: StripesConfig) -> RawImages:
    """All images, uint8 (N, C, H, W), with their labels; rnet splits and resizes them."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(config.images) % config.classes
    angle_N11 = (math.pi / config.classes * labels_N).view(-1, 1, 1)
    phase_N11 = 2 * math.pi * torch.rand(config.images, 1, 1, generator=generator)
    y_HW, x_HW = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    wave_NHW = torch.sin(x_HW * angle_N11.cos() + y_HW * angle_N11.sin() + phase_N11)
    noisy_NHW = 127.5 + 90 * wave_NHW + 20 * torch.randn(wave_NHW.shape, generator=generator)
    images_NCHW = noisy_NHW.clamp(0, 255).to(torch.uint8).unsqueeze(1)
    return RawImages(train=TensorSource(images_NCHW), train_labels_N=labels_N, num_classes=config.classes, flip=False)
