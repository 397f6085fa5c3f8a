"""Adam (Kingma and Ba 2015) for rows that search side by side: each on its own, and free to leave the batch or join it.

torch.optim.Adam holds on to one tensor of one size. A: rows being searched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's defaults


@dataclass
class RowAdam:
    """Means of the gradients and of their squares, (A, ...) each."""

    mean: Tensor
    square: Tensor

    @classmethod
    def start(cls, x: Tensor) -> RowAdam:
        """The state before the first step, for rows like these."""
        return cls(torch.zeros_like(x), torch.zeros_like(x))

    def select(self, keep: Tensor) -> RowAdam:
        """The state of the rows with these indices."""
        return RowAdam(self.mean[keep], self.square[keep])

    def join(self, other: RowAdam) -> RowAdam:
        """The state of these rows followed by the others."""
        return RowAdam(torch.cat([self.mean, other.mean]), torch.cat([self.square, other.square]))

    def step(self, gradient: Tensor, age: int | Tensor, learning_rate: float) -> Tensor:
        """How far each row goes up its gradient; to be subtracted to go down.

        age: the number of this step, from 1; int64 (A, 1, ...) where rows differ.
        """
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        if isinstance(age, int):
            root = (self.square / (1 - BETA2**age)).sqrt_()
            return learning_rate / (1 - BETA1**age) * self.mean / root.add_(EPSILON)
        exact_age = age.double()
        size = (learning_rate / (1 - BETA1**exact_age)).to(gradient.dtype)
        correction = (1 - BETA2**exact_age).sqrt().to(gradient.dtype)
        return size * self.mean / self.square.sqrt().div_(correction).add_(EPSILON)
