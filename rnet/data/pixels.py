"""How stored images become what models take."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 64


def as_pixels(images_NCHW: Tensor) -> Tensor:
    """Float32 pixels, the same bits on every device: uint8 divided by 255, contiguous; floats are pixels already.

    The divisor is a tensor on the images' device: by a number, CUDA multiplies with its reciprocal, which rounds
    otherwise.
    """
    if images_NCHW.is_floating_point():
        return images_NCHW.float()
    floats_NCHW = images_NCHW.to(torch.float32, memory_format=torch.contiguous_format)
    return floats_NCHW.div_(torch.full((), 255.0, device=images_NCHW.device))


def images_at_once(image_size: int, most: int = 256) -> int:
    """How many images go through a model together where no gradient is kept: `most` of up to 64 pixels a side.

    Of larger ones as many as have about the same pixels: activations grow with them, and 512 images of 224 pixels would
    take several times the memory of an ImageNet model's training step.
    """
    return max(1, min(most, most * _SMALL**2 // max(1, image_size**2)))
