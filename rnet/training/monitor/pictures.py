"""Images side by side, as one picture for TensorBoard."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import make_grid

MOST = 8
"""Images of a picture."""
_LEAST_SIDE = 64
_GAP = 4
_IN_A_ROW = 4


def side_by_side(x_BCHW: Tensor) -> Tensor:
    """The first MOST images in rows of four with white gaps: uint8 (H, W, 3) on the CPU.

    x_BCHW: floats in [0, 1] of 1 or 3 channels; of other images the first channel is shown. Small ones are enlarged,
    pixel by pixel.
    """
    x_BCHW = x_BCHW[:MOST].detach().float().cpu()
    if x_BCHW.shape[1] not in (1, 3):
        x_BCHW = x_BCHW[:, :1]
    times = -(-_LEAST_SIDE // max(x_BCHW.shape[-2:]))
    x_BCHW = x_BCHW.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
    grid_CHW = make_grid(x_BCHW, nrow=_IN_A_ROW, padding=_GAP, pad_value=1.0)
    return (grid_CHW.movedim(0, 2).clamp(0, 1) * 255).round().to(torch.uint8)
