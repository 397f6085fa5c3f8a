"""RemovalNet's mixing at the logits level: each sample's scores drawn to its partner's as far as the label allows.

Shapes: B samples of the batch, G of the global batch (the gallery), K classes. No (B, 7, K) tensor is made.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from rnet.errors import unknown_name
from rnet.kernels.checks import (
    arithmetic_type,
    check_floats,
    check_indices,
    check_range_on_cpu,
    check_same_device,
    check_scores,
    check_shape,
)
from rnet.kernels.dispatch import on_cuda
from rnet.kernels.partners import first_argmax, partners

MIXING_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

_OP = "admissible_mix"


def admissible_mix(scores_BK: Tensor, gallery_GK: Tensor, partner_B: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """(mixed (B, K), weight (B,)): b * scores + (1 - b) * gallery[partner] for the first b of MIXING_WEIGHTS whose mix
    has its first argmax at y, else b = 1 (Yao et al. 2023).

    y is the victim's label: the surrogate's own argmax may differ, so the admissible weights form an interval. Any mix
    of floating types, any strides; float32 arithmetic and results (float64 if one is), rounded alike everywhere: equal
    inputs give equal bits on a CPU and on CUDA. partner_B, y_B: int64. Gradients flow to scores_BK and gallery_GK.

    Raises UserError for other shapes, types and devices and, on a CPU, for a partner or label out of range; on CUDA,
    where looking would wait for the GPU, they make their row NaN.
    """
    check_scores(_OP, "scores_BK", scores_BK)
    check_scores(_OP, "gallery_GK", gallery_GK)
    B, K = scores_BK.shape
    check_shape(_OP, "gallery_GK", gallery_GK, (gallery_GK.shape[0], K), "as many classes as scores_BK")
    check_shape(_OP, "partner_B", partner_B, (B,), "one row of gallery_GK per row of scores_BK")
    check_shape(_OP, "y_B", y_B, (B,), "one label per row of scores_BK")
    check_floats(_OP, scores_BK=scores_BK, gallery_GK=gallery_GK)
    check_indices(_OP, partner_B=partner_B, y_B=y_B)
    check_same_device(_OP, scores_BK=scores_BK, gallery_GK=gallery_GK, partner_B=partner_B, y_B=y_B)
    return admissible_mix_op(scores_BK, gallery_GK, partner_B, y_B)


def mixed_target(
    logits_BK: Tensor,
    y_B: Tensor,
    mode: str,
    *,
    gallery_GK: Tensor | None = None,
) -> Tensor:
    """The mix m (B, K) behind the logits level's target q, which is softmax(m / T), but m itself for mode `probs`.

    mode: `official` and `probs` mix probabilities, `logits` mixes logits. gallery_GK: logits of the global batch; None
    for logits_BK itself. In both cases the partner is the one with the farthest probabilities.
    """
    if mode not in ("official", "logits", "probs"):
        raise unknown_name("mode", mode, ("official", "logits", "probs"))
    dtype = arithmetic_type(logits_BK)
    p_BK = logits_BK.softmax(dim=1, dtype=dtype)
    gallery_p_GK = p_BK if gallery_GK is None else gallery_GK.softmax(dim=1, dtype=dtype)
    partner_B = partners(p_BK, gallery_p_GK)
    if mode == "logits":
        return admissible_mix(logits_BK, logits_BK if gallery_GK is None else gallery_GK, partner_B, y_B)[0]
    return admissible_mix(p_BK, gallery_p_GK, partner_B, y_B)[0]


@functools.cache
def _weight_pairs() -> tuple[tuple[float, float], ...]:
    """(b, 1 - b) for every mixing weight, rounded to float32 as tensors of that type round them."""
    b_W = torch.tensor(MIXING_WEIGHTS, device="cpu")
    return tuple(zip(b_W.tolist(), (1 - b_W).tolist(), strict=True))


def _reference(scores_BK: Tensor, gallery_GK: Tensor, partner_B: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    check_range_on_cpu(_OP, "partner_B", partner_B, len(gallery_GK))
    check_range_on_cpu(_OP, "y_B", y_B, scores_BK.shape[1])
    dtype = arithmetic_type(scores_BK, gallery_GK)
    scores_BK, partners_BK = scores_BK.to(dtype), gallery_GK[partner_B].to(dtype)
    b_B = torch.ones_like(scores_BK[:, 0])
    pairs = _weight_pairs() if dtype == torch.float32 else [(b, 1 - b) for b in MIXING_WEIGHTS]
    for b, rest in reversed(pairs):
        b_B.masked_fill_(first_argmax(b * scores_BK + rest * partners_BK) == y_B, b)
    return b_B[:, None] * scores_BK + (1 - b_B)[:, None] * partners_BK, b_B


admissible_mix_op = torch.library.custom_op("rnet::admissible_mix", _reference, mutates_args=())


def by_triton(scores_BK: Tensor, gallery_GK: Tensor, partner_B: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """As the reference, on CUDA or under Triton's interpreter; indices out of range make their row NaN."""
    from rnet.kernels.triton.admissible_mix import launch

    return launch(scores_BK, gallery_GK, partner_B, y_B, _weight_pairs())


admissible_mix_op.register_kernel("cuda")(on_cuda(_reference, by_triton))


@admissible_mix_op.register_fake
def _fake(scores_BK, gallery_GK, partner_B, y_B):  # type: ignore[no-untyped-def]
    dtype = arithmetic_type(scores_BK, gallery_GK)
    return scores_BK.new_empty(scores_BK.shape, dtype=dtype), scores_BK.new_empty(y_B.shape, dtype=dtype)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    scores_BK, gallery_GK, partner_B, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], partner_B)
    ctx.dtypes, ctx.gallery_shape = (scores_BK.dtype, gallery_GK.dtype), gallery_GK.shape


def _backward(ctx, grad_BK, _):  # type: ignore[no-untyped-def]
    b_B, partner_B = ctx.saved_tensors
    gallery_GK = grad_BK.new_zeros(ctx.gallery_shape).index_add(0, partner_B, grad_BK * (1 - b_B)[:, None])
    return (grad_BK * b_B[:, None]).to(ctx.dtypes[0]), gallery_GK.to(ctx.dtypes[1]), None, None


admissible_mix_op.register_autograd(_backward, setup_context=_setup_context)
