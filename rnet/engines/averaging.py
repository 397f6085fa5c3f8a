"""A moving average of the weights while they are trained, which is measured and kept in their place.

Source: Polyak and Juditsky 1992; the exponential form and the warm-up of its decay as in TensorFlow's
ExponentialMovingAverage and in timm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

Held = Callable[[], dict[str, Tensor]]
"""By name, what a process holds of parameters and buffers; called when that is read or written in place."""


class WeightAverage:
    """average = d * average + (1 - d) * weights, every so many steps; d is decay, at first less.

    The first update takes the weights as they are; d = min(decay, (1 + n) / (10 + n)) after n updates, so that early
    weights are soon forgotten. Buffers (the running statistics of batch norm) are averaged like parameters, and whole
    numbers copied. Each process averages what it holds.
    """

    def __init__(self, decay: float, *, every: int = 1) -> None:
        self.decay, self.every, self.steps = decay, every, 0
        self.weights: dict[str, Tensor] = {}

    def after_step(self, held: Held) -> None:
        """Takes the weights in, if it is time."""
        self.steps += 1
        if self.steps % self.every:
            return
        now, updates = held(), self.steps // self.every - 1
        if not updates:
            self.weights = {name: tensor.clone() for name, tensor in now.items()}
            return
        names = [name for name, value in self.weights.items() if value.is_floating_point()]
        update = get_ema_multi_avg_fn(min(self.decay, (1 + updates) / (10 + updates)))
        update([self.weights[name] for name in names], [now[name] for name in names], None)
        for name in self.weights.keys() - set(names):
            self.weights[name].copy_(now[name])

    @torch.no_grad()
    def exchange(self, held: Held) -> None:
        """Puts the average where the weights are, and the weights where the average was; again, and all is as before.

        Before the first update nothing is exchanged.
        """
        if not self.weights:
            return
        for name, tensor in held().items():
            before = tensor.clone()
            tensor.copy_(self.weights[name])
            self.weights[name].copy_(before)
