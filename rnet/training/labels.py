"""What a model says of images, asked for once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rnet.data.batches import evaluation_batch_size
from rnet.data.images import Part
from rnet.parallel.collectives import map_rows

Model = Callable[[Tensor], Tensor]


def logit_table(
    victim: Model, part: Part, device: torch.device, *, flip: bool, batch_size: int | None = None
) -> Tensor:
    """The victim's logits, float32 (N, 1 or 2, K), as answer_table has its answers."""
    return answer_table(victim, part, device, lambda logits_BK: logits_BK.float(), flip=flip, batch_size=batch_size)


@torch.no_grad()
def answer_table(
    victim: Model, part: Part, device: torch.device, of: Callable[[Tensor], Tensor], *, flip: bool,
    batch_size: int | None = None,
) -> Tensor:  # fmt: skip
    """What the victim says of every image of a part, as is and, with flip, mirrored: (N, 1 or 2, ...) on the device.

    Images are only ever mirrored, so this is the answer to the image as augmented, asked for once; each process asks
    for its share. of: logits (B, K) -> (B, ...). batch_size: None for 512 small images, and fewer large ones.
    """

    def answers(indices_N: Tensor) -> Tensor:
        found = []
        for indices_B in indices_N.split(batch_size or evaluation_batch_size(part)):
            x_BCHW = part.pixels(indices_B, device)
            shown = (x_BCHW, x_BCHW.flip(-1)) if flip else (x_BCHW,)
            found.append(torch.stack([of(victim(x)) for x in shown], dim=1))
        return torch.cat(found)

    return map_rows(answers, torch.arange(len(part)))
