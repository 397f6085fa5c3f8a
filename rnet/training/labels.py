"""The labels that a model gives to images, asked for once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rnet.data.images import Part
from rnet.parallel.collectives import map_rows


@torch.no_grad()
def label_table(
    victim: Callable[[Tensor], Tensor], part: Part, device: torch.device, *, batch_size: int = 512
) -> Tensor:
    """The victim's labels for every image of a part, as is and mirrored: int64 (N, 2) on the device.

    Images are only ever mirrored, so this is the label of the image as augmented, computed once; each process asks for
    its share.
    """

    def labels(indices_N: Tensor) -> Tensor:
        found = []
        for indices_B in indices_N.split(batch_size):
            x_BCHW = part.pixels(indices_B, device)
            found.append(torch.stack([victim(x).argmax(dim=1) for x in (x_BCHW, x_BCHW.flip(-1))], dim=1))
        return torch.cat(found)

    return map_rows(labels, torch.arange(len(part)))
