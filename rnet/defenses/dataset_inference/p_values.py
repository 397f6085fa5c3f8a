"""Dataset Inference's test: one-sided Welch tests on small samples, and the harmonic mean of their p values.

Shapes: N images, R draws of the test, S images in a draw.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.stats import hmean, ttest_ind

from rnet.defenses.queries import seeded_generator

SMALLEST_P = float(np.finfo(np.float64).tiny)


def draw_samples(
    private_N: np.ndarray, public_N: np.ndarray, size: int, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both (R, S): `draws` samples of `size` images without replacement, drawn apart for private and public images."""
    samples = []
    for name, values_N in (("private", private_N), ("public", public_N)):
        generator = seeded_generator(seed, f"dataset_inference/{name}")
        order_RN = torch.rand(draws, len(values_N), generator=generator).argsort(dim=1)
        samples.append(values_N[order_RN[:, :size].numpy()])
    return samples[0], samples[1]


def welch_p_values(private_RS: np.ndarray, public_RS: np.ndarray) -> np.ndarray:
    """One-sided p value of each row for "the private mean is not larger", unequal variances (Welch 1947); (R,).

    Where neither sample varies there is no t: p is 0, 1/2 or 1 as the private mean is larger, equal or smaller.
    """
    gap_R = private_RS.mean(axis=1) - public_RS.mean(axis=1)
    constant_R = (private_RS.var(axis=1) == 0) & (public_RS.var(axis=1) == 0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a t, which are replaced
        p_R = ttest_ind(private_RS, public_RS, axis=1, equal_var=False, alternative="greater").pvalue
    return np.where(constant_R, 0.5 - 0.5 * np.sign(gap_R), p_R)


def harmonic_mean(p_R: np.ndarray) -> float:
    """The harmonic mean p (Wilson 2019); p values below the smallest normal number count as that."""
    return min(1.0, float(hmean(np.maximum(p_R, SMALLEST_P))))
