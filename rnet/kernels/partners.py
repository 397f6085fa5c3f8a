"""The partner of each sample at RemovalNet's logits level: who in the global batch has the farthest probabilities.

Shapes: B samples of the batch, G of the global batch (the gallery), K classes. No (B, G, K) tensor is made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnet.kernels.checks import arithmetic_type, check_floats, check_same_device, check_scores, check_shape
from rnet.kernels.dispatch import on_cuda

_OP = "partners"


def partners(p_BK: Tensor, gallery_GK: Tensor | None = None) -> Tensor:
    """int64 (B,): for each row the gallery's row at the largest Euclidean distance, the lowest index on ties.

    gallery_GK: probabilities of the global batch; None for p_BK itself. Any mix of floating types, any strides; float32
    arithmetic (float64 if one is). Equal rows of the gallery tie exactly. Distances that differ by less than the
    rounding of a sum over K may be ordered differently on a CPU and on CUDA. A row with a NaN distance gets the last
    index. Raises UserError for other shapes, types and devices.
    """
    gallery_GK = p_BK if gallery_GK is None else gallery_GK
    check_scores(_OP, "p_BK", p_BK)
    check_scores(_OP, "gallery_GK", gallery_GK)
    check_shape(_OP, "gallery_GK", gallery_GK, (gallery_GK.shape[0], p_BK.shape[1]), "as many classes as p_BK")
    check_floats(_OP, p_BK=p_BK, gallery_GK=gallery_GK)
    check_same_device(_OP, p_BK=p_BK, gallery_GK=gallery_GK)
    return partners_op(p_BK, gallery_GK)


def _reference(p_BK: Tensor, gallery_GK: Tensor) -> Tensor:
    dtype = arithmetic_type(p_BK, gallery_GK)
    # Without the matrix product, which rounds differences of nearly equal rows to nothing.
    exact = "donot_use_mm_for_euclid_dist"
    return first_argmax(torch.cdist(p_BK.to(dtype), gallery_GK.to(dtype), compute_mode=exact))


partners_op = torch.library.custom_op("rnet::partners", _reference, mutates_args=())


def by_triton(p_BK: Tensor, gallery_GK: Tensor) -> Tensor:
    """As the reference, on CUDA or under Triton's interpreter."""
    from rnet.kernels.triton.partners import distances

    return first_argmax(distances(p_BK, gallery_GK))


partners_op.register_kernel("cuda")(on_cuda(_reference, by_triton))


@partners_op.register_fake
def _fake(p_BK, gallery_GK):  # type: ignore[no-untyped-def]
    return p_BK.new_empty((p_BK.shape[0],), dtype=torch.int64)


def first_argmax(values: Tensor) -> Tensor:
    """argmax over the last axis, the lowest index on ties (torch.argmax does not promise which); with NaN the last."""
    size = values.shape[-1]
    is_max = values == values.amax(dim=-1, keepdim=True)
    return torch.where(is_max, torch.arange(size, device=values.device), size).amin(dim=-1).clamp_(max=size - 1)
