"""The gradient bandit that chooses what to ask next, and what it is rewarded for.

Orekondy et al., "Knockoff Nets: Stealing Functionality of Black-Box Models", CVPR 2019, section 4.1.2. The arithmetic
of averages is that of the adversarial robustness toolbox (knockoff_nets.py), as the authors' code has random questions
only; rewards are computed on probabilities. The groups are flat; the paper's are a tree of classes. Shapes: A groups, K
classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_TINY = 1e-12


class Bandit:
    """Prefers groups whose rewards lie above the average (Sutton and Barto, section 2.8), at a rate of 1 / choices."""

    def __init__(self, groups: int) -> None:
        self._preferences_A = np.zeros(groups)
        self._choices_A = np.zeros(groups)
        self._mean, self._count = 0.0, 0

    def probabilities(self, open_A: NDArray[np.bool_]) -> Array:
        """Of each group, (A,), among those that still have images."""
        weights_A = np.exp(self._preferences_A - self._preferences_A[open_A].max()) * open_A
        found: Array = weights_A / weights_A.sum()
        return found

    def learn(self, group: int, reward: float) -> None:
        """Moves the preferences after a choice."""
        self._count += 1
        self._mean += (reward - self._mean) / self._count
        self._choices_A[group] += 1
        chosen_A = np.zeros(len(self._choices_A))
        chosen_A[group] = 1.0
        everything_A = np.ones(len(chosen_A), dtype=bool)
        step = (reward - self._mean) / self._choices_A[group]
        self._preferences_A += step * (chosen_A - self.probabilities(everything_A))


class Rewards:
    """The mean of three rewards, each in standard deviations from its mean so far."""

    def __init__(self, classes: int) -> None:
        self._answers_K = np.zeros(classes)
        self._mean_3, self._variance_3 = np.zeros(3), np.zeros(3)
        self._count = 0

    def __call__(self, victim_K: Array, knockoff_K: Array) -> float:
        """Of one image: high where the victim is certain, answers what it rarely answers, and the knockoff is wrong.

        victim_K, knockoff_K: probabilities.
        """
        self._count += 1
        self._answers_K += (victim_K - self._answers_K) / self._count
        second, first = np.sort(victim_K)[-2:]
        diversity = np.maximum(victim_K - self._answers_K, 0).sum()
        loss = -(victim_K * np.log(np.maximum(knockoff_K, _TINY))).sum()
        rewards_3 = np.array([first - second, diversity, loss])
        self._mean_3 += (rewards_3 - self._mean_3) / self._count
        self._variance_3 += ((rewards_3 - self._mean_3) ** 2 - self._variance_3) / self._count
        if self._count == 1:
            return float(rewards_3.clip(0, 1).mean())
        spread_3 = np.sqrt(self._variance_3)
        known_3 = spread_3 > _TINY
        return float(((rewards_3 - self._mean_3) / np.where(known_3, spread_3, 1.0) * known_3).mean())
