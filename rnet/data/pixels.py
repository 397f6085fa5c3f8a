"""How stored images become what models take."""

from __future__ import annotations

import torch
from torch import Tensor


def as_pixels(images_NCHW: Tensor) -> Tensor:
    """Float32 pixels, the same bits on every device: uint8 divided by 255, contiguous; floats are pixels already.

    The divisor is a tensor on the images' device: by a number, CUDA multiplies with its reciprocal, which rounds
    otherwise.
    """
    if images_NCHW.is_floating_point():
        return images_NCHW.float()
    floats_NCHW = images_NCHW.to(torch.float32, memory_format=torch.contiguous_format)
    return floats_NCHW.div_(torch.full((), 255.0, device=images_NCHW.device))
