"""How alike two models are, from their logits on pairs of inputs: DDV and DDM similarity (ModelDiff, section 4).

Shapes: N pairs, M inputs, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def decision_distances(logits_NK: Tensor, other_NK: Tensor) -> Tensor:
    """The decision distance vector (DDV): 1 - cosine of the logits of each pair, float64 CPU (N,), in [0, 2].

    A row of zeros has cosine 0 with everything (ModelDiff, section 4.3).
    """
    a_NK, b_NK = logits_NK.cpu().double(), other_NK.cpu().double()
    # One root of the product, not a product of two roots: equal rows then have distance 0 exactly.
    norms_N = ((a_NK * a_NK).sum(dim=1) * (b_NK * b_NK).sum(dim=1)).sqrt()
    cosine_N = torch.where(norms_N > 0, (a_NK * b_NK).sum(dim=1) / norms_N, 0.0)
    return (1 - cosine_N).clamp(0.0, 2.0)


def ddv_similarity(victim_N: Tensor, suspect_N: Tensor) -> float:
    """Cosine of two decision distance vectors, in [0, 1]; 0 if either is all zero (ModelDiff, section 4.4)."""
    return min(max(_cosine(victim_N, suspect_N), 0.0), 1.0)


def ddm_similarity(victim_MK: Tensor, suspect_MK: Tensor) -> float:
    """(cosine + 1) / 2 of two decision distance matrices, in [0, 1]; M inputs, here all 2N of the pairs.

    A decision distance matrix (DDM) holds the Euclidean distances between the logits of all inputs. The authors' code
    prints 1 minus this value.
    """
    matrices = [
        torch.cdist(logits_MK, logits_MK, compute_mode="donot_use_mm_for_euclid_dist").flatten()
        for logits_MK in (victim_MK.cpu().double(), suspect_MK.cpu().double())
    ]
    return (min(max(_cosine(*matrices), -1.0), 1.0) + 1) / 2


def _cosine(a_N: Tensor, b_N: Tensor) -> float:
    norms = ((a_N * a_N).sum() * (b_N * b_N).sum()).sqrt()
    return float((a_N * b_N).sum() / norms) if norms > 0 else 0.0
