"""What an attack costs, in counts that do not depend on the machine: images, questions, steps, passes and FLOPs.

Passes are counted by image: one image once through the network or a part of it, forwards or backwards. FLOPs are those
of matrix products and convolutions, counted by torch.utils.flop_counter (2 for a multiplication with its addition) on
one image and the plain network. What an engine computes twice to save memory is not counted, nor are the victim's
answers, whose number stands beside. Seconds and memory are in status.json: they depend on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnet.rewrites.modes import frozen_eval
from rnet.training.flops import count_flops


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Forward and backward passes of images, and their FLOPs."""

    forward: int = 0
    backward: int = 0
    flops: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            forward=self.forward + other.forward, backward=self.backward + other.backward,
            flops=self.flops + other.flops,
        )  # fmt: skip

    def times(self, count: int) -> Passes:
        """Of so many images instead of one."""
        return Passes(forward=count * self.forward, backward=count * self.backward, flops=count * self.flops)


def training_passes(model: nn.Module, x_1CHW: Tensor, trained: Sequence[nn.Parameter]) -> Passes:
    """One image forwards and backwards through a model, as far as the trained parameters need it.

    The model is as it was after: no gradient, no batch norm statistic and no random draw of it changes.
    """
    with frozen_eval(model), torch.enable_grad():
        for parameter in trained:
            parameter.requires_grad_(True)
        flops = count_flops(lambda: torch.autograd.grad(model(x_1CHW).sum(), list(trained), allow_unused=True))
    return Passes(forward=1, backward=1, flops=flops)


def cost(
    *, substitute_samples: int = 0, training_samples: int = 0, victim_queries: int = 0, iterations: int = 0,
    passes: Passes | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a suspect's result says under "cost"; the same keys for every attack.

    substitute_samples: unlabelled images of the attacker. training_samples: labelled ones of the victim.
    """
    spent = passes or Passes()
    return {
        "substitute_samples": substitute_samples,
        "training_samples": training_samples,
        "victim_queries": victim_queries,
        "iterations": iterations,
        "forward_passes": spent.forward,
        "backward_passes": spent.backward,
        "flops": spent.flops,
    }
