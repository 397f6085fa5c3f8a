"""ZEST's distances between two models' LIME weights: classes matched, then a norm of the difference.

Shapes: T segments of all images, K classes of the victim, J of the suspect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rnet.errors import UserError

ORDERS = {"l1": 1.0, "l2": 2.0, "linf": float("inf"), "cosine": None}

FEWEST_REFERENCES = 5
"""Fewer distances of independent pairs are no yardstick."""


def distance(victim_TK: Tensor, suspect_TJ: Tensor, order: str, align: str = "always") -> float:
    """Distance of two models' weights: l1, l2, linf, or cosine = 1 - cos of all entries as one vector.

    Where align says so, the classes of the two models are matched first and unmatched ones dropped. Against weights
    that are all zero the cosine distance is 1, or 0 if both are. Raises UserError for different numbers of classes
    under align="never".
    """
    classes_differ = victim_TK.shape[1] != suspect_TJ.shape[1]
    if classes_differ and align == "never":
        raise UserError(
            f"the suspect has {suspect_TJ.shape[1]} classes but the fingerprint's victim has {victim_TK.shape[1]}; "
            f"set defense.align=auto to match classes"
        )
    if align == "always" or classes_differ:
        rows, columns = match_classes(victim_TK, suspect_TJ, order)
        victim_TK, suspect_TJ = victim_TK[:, rows], suspect_TJ[:, columns]
    a, b = victim_TK.flatten(), suspect_TJ.flatten()
    if order != "cosine":
        return float(torch.linalg.vector_norm(a - b, ord=ORDERS[order]))
    norm_a, norm_b = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
    if norm_a == 0 or norm_b == 0:
        return 0.0 if norm_a == norm_b else 1.0
    # |a/|a| - b/|b||^2 / 2 equals 1 - cos and, unlike it, is exact where the two are equal or close
    return float((a / norm_a - b / norm_b).square().sum() / 2)


def match_classes(victim_TK: Tensor, suspect_TJ: Tensor, order: str) -> tuple[list[int], list[int]]:
    """Pairs of classes (of the victim, of the suspect): repeatedly the closest pair of columns still unmatched.

    Closeness is the distance `order` between columns; ties go to the lowest class of the victim, then of the suspect.
    There are min(K, J) pairs.
    """
    p = ORDERS[order]
    if p is None:
        a_KT, b_JT = (torch.nn.functional.normalize(w.T, dim=1) for w in (victim_TK, suspect_TJ))
        distances_KJ = 1 - a_KT @ b_JT.T
    else:
        mode = "donot_use_mm_for_euclid_dist"
        distances_KJ = torch.cdist(victim_TK.T.contiguous(), suspect_TJ.T.contiguous(), p=p, compute_mode=mode)
    table_KJ = distances_KJ.cpu().numpy()
    rows, columns = [], []
    for _ in range(min(table_KJ.shape)):
        row, column = np.unravel_index(table_KJ.argmin(), table_KJ.shape)
        table_KJ[row, :] = np.inf
        table_KJ[:, column] = np.inf
        rows.append(int(row))
        columns.append(int(column))
    return rows, columns


def normalise(value: float, reference_distances: Sequence[float]) -> float:
    """A distance relative to that of unrelated models; below 1 the suspect counts as derived (Jia et al. 2022).

    reference_distances: of independently trained pairs with the architectures and data of victim and suspect, same
    metric. Raises UserError for fewer than 5 of them and when their mean is not a positive number.
    """
    if len(reference_distances) < FEWEST_REFERENCES:
        raise UserError(
            f"{len(reference_distances)} reference distances are too few to normalise by; train at least "
            f"{FEWEST_REFERENCES} independent pairs"
        )
    mean = sum(reference_distances) / len(reference_distances)
    if not 0 < mean < float("inf"):
        raise UserError(f"the mean reference distance is {mean}; the reference pairs must be independently trained")
    return value / mean
