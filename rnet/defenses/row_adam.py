"""Adam (Kingma and Ba 2015) for rows that search side by side: each on its own, and free to leave the batch or join it.

torch.optim.Adam holds on to one tensor of one size. Keras adds its epsilon, 1e-7, to the root of the squares' mean as
it is; torch adds 1e-8 after dividing that root by its bias correction. Where gradients are as small as the epsilon this
decides whether a pixel moves. A: rows being searched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

BETA1, BETA2 = 0.9, 0.999  # Adam's defaults
EPSILON = {"torch": 1e-8, "keras": 1e-7}


@dataclass
class RowAdam:
    """Means of gradients and their squares, (A, ...) each. keras: the epsilon stands before the bias correction."""

    mean: Tensor
    square: Tensor
    epsilon: float
    keras: bool

    @classmethod
    def start(cls, x: Tensor, *, epsilon: float | None = None, keras: bool = False) -> RowAdam:
        """The state before the first step, for rows like these. epsilon None: the library's own, 1e-8 or 1e-7."""
        own = EPSILON["keras" if keras else "torch"]
        return cls(torch.zeros_like(x), torch.zeros_like(x), own if epsilon is None else epsilon, keras)

    def select(self, keep: Tensor) -> RowAdam:
        """The state of the rows with these indices."""
        return replace(self, mean=self.mean[keep], square=self.square[keep])

    def join(self, other: RowAdam) -> RowAdam:
        """The state of these rows followed by the others."""
        joined = [torch.cat(pair) for pair in ((self.mean, other.mean), (self.square, other.square))]
        return replace(self, mean=joined[0], square=joined[1])

    def step(self, gradient: Tensor, age: int | Tensor, learning_rate: float) -> Tensor:
        """How far each row goes up its gradient; to be subtracted to go down.

        age: the number of this step, from 1; int64 (A, 1, ...) where rows differ.
        """
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        if isinstance(age, int):
            root = self._divisor(self.square, (1 - BETA2**age) ** 0.5)
            return learning_rate / (1 - BETA1**age) * self.mean / root
        exact_age = age.double()
        size = (learning_rate / (1 - BETA1**exact_age)).to(gradient.dtype)
        return size * self.mean / self._divisor(self.square, (1 - BETA2**exact_age).sqrt().to(gradient.dtype))

    def _divisor(self, square: Tensor, correction: float | Tensor) -> Tensor:
        """The root of the squares' mean over its bias correction, the epsilon added after or before the division."""
        if self.keras:
            return square.sqrt().add_(self.epsilon).div_(correction)
        return square.sqrt().div_(correction).add_(self.epsilon)
