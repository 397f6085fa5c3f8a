"""Random views of images for training on photographs: RandomResizedCrop and RandAugment, as functions of draws.

A view depends on the image and on its own draws, so that it is the same in whatever process it is made.
Shapes: D draws of one image, C channels, S the side of a square view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

_RATIO = (math.log(3 / 4), math.log(4 / 3))
_ATTEMPTS = 10
_OPERATIONS = 2


@dataclass(frozen=True, kw_only=True)
class Views:
    """crop_scale: smallest and largest share of the image's area that is cut out, then resized; None takes it whole.

    The crop is that of Szegedy et al. 2015 as torchvision's RandomResizedCrop makes it: sides in a ratio of 3:4 to 4:3,
    up to ten attempts, else the largest middle. rand_augment: strength, 0 to 30, of the two operations of RandAugment
    (Cubuk et al. 2020); 0 for none.
    """

    crop_scale: tuple[float, float] | None = None
    rand_augment: int = 0

    draws = 4 * _ATTEMPTS + 2 * _OPERATIONS
    """How many an image needs, each in [0, 1)."""

    def box(self, height: int, width: int, draws_D: list[float]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the crop from an image of this size."""
        assert self.crop_scale is not None
        low, high = self.crop_scale
        for attempt in range(_ATTEMPTS):
            share, ratio, down, right = draws_D[4 * attempt : 4 * attempt + 4]
            area = height * width * (low + share * (high - low))
            aspect = math.exp(_RATIO[0] + ratio * (_RATIO[1] - _RATIO[0]))
            cut_width, cut_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < cut_width <= width and 0 < cut_height <= height:
                top, left = int(down * (height - cut_height + 1)), int(right * (width - cut_width + 1))
                return top, left, cut_height, cut_width
        cut_width = min(width, max(1, round(height * math.exp(_RATIO[1]))))
        cut_height = min(height, max(1, round(width / math.exp(_RATIO[0]))))
        return (height - cut_height) // 2, (width - cut_width) // 2, cut_height, cut_width

    def of(self, image_CHW: Tensor, size: int, draws_D: list[float]) -> Tensor:
        """uint8 (C, S, S): the view of one image. size: S; that of the image where nothing is cropped."""
        if self.crop_scale is not None:
            image_CHW = self._crop(image_CHW, size, draws_D)
        return self._augmented(image_CHW.contiguous(), draws_D[4 * _ATTEMPTS :]) if self.rand_augment else image_CHW

    def _crop(self, image_CHW: Tensor, size: int, draws_D: list[float]) -> Tensor:
        """uint8 (C, S, S): the crop, resized with antialiasing."""
        from torchvision.transforms.v2 import functional as transforms  # slow to import

        top, left, height, width = self.box(image_CHW.shape[1], image_CHW.shape[2], draws_D)
        crop_1CHW = image_CHW[None, :, top : top + height, left : left + width]
        # Colours side by side, as decoders give them, or resizing would take them apart: the same bits, more slowly.
        crop_1CHW = crop_1CHW.contiguous(memory_format=torch.channels_last)
        return transforms.resize(crop_1CHW, [size, size], antialias=True)[0]

    def _augmented(self, image_CSS: Tensor, draws: list[float]) -> Tensor:
        """RandAugment, by torchvision's operations and strengths. Its own class draws from torch's one generator, which
        other threads draw from as well."""
        randaugment = _randaugment()
        kinds = list(randaugment._AUGMENTATION_SPACE.items())
        for choice, sign in zip(draws[::2], draws[1::2], strict=True):
            name, (strengths_of, signed) = kinds[int(choice * len(kinds))]
            strengths = strengths_of(randaugment.num_magnitude_bins, *image_CSS.shape[-2:])
            strength = 0.0 if strengths is None else float(strengths[self.rand_augment])
            if signed and sign < 0.5:
                strength = -strength
            image_CSS = randaugment._apply_image_or_video_transform(
                image_CSS, name, strength, interpolation=randaugment.interpolation, fill=randaugment._fill
            )
        return image_CSS


@cache
def _randaugment() -> Any:
    from torchvision.transforms.v2 import RandAugment

    return RandAugment(num_ops=_OPERATIONS)
