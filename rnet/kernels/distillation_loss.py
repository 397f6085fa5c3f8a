"""Distillation with cross-entropy, the loss on RemovalNet's logits: its value and its gradient in one pass.

alpha * T^2 * KL(q || softmax(logits / T)) + gamma * CE(logits, y), KL summed over classes, both averaged over the batch
(Hinton et al. 2015; Yao et al. 2023). The backward pass only scales the gradient that the forward pass has stored.

Shapes: B samples, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rnet.errors import UserError
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

_OP = "distillation_loss"


def distillation_loss(
    logits_BK: Tensor,
    target_BK: Tensor,
    y_B: Tensor,
    *,
    temperature: float,
    alpha: float,
    gamma: float,
    soften_target: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, 0-dim, and its parts before alpha and gamma, detached: "kl", which includes T^2, and "ce".

    target_BK: q itself, or with soften_target mixed scores m, and q is softmax(m / T). A constant: no gradient flows to
    it. logits_BK, target_BK: any mix of bfloat16, float16, float32 and float64, any strides; float32 arithmetic and
    results (float64 if one is). y_B: int64 labels. A class with q = 0 adds nothing to KL, also where softmax is 0.

    Raises UserError for other shapes, types and devices, a temperature that is not positive and, on a CPU, a label out
    of range; on CUDA, where looking would wait for the GPU, such a label makes the loss and its row's gradient NaN.
    """
    check_scores(_OP, "logits_BK", logits_BK)
    check_floats(_OP, logits_BK=logits_BK, target_BK=target_BK)
    check_indices(_OP, y_B=y_B)
    check_same_device(_OP, logits_BK=logits_BK, target_BK=target_BK, y_B=y_B)
    check_shape(_OP, "target_BK", target_BK, tuple(logits_BK.shape), "as logits_BK")
    check_shape(_OP, "y_B", y_B, (logits_BK.shape[0],), "one label per row of logits_BK")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UserError(f"{_OP}: temperature={temperature}; give a positive number")
    loss, parts_2, _ = distillation_loss_op(
        logits_BK, target_BK.detach(), y_B, temperature, alpha, gamma, soften_target
    )
    return loss, {"kl": parts_2[0], "ce": parts_2[1]}


def _reference(
    logits_BK: Tensor,
    target_BK: Tensor,
    y_B: Tensor,
    temperature: float,
    alpha: float,
    gamma: float,
    soften_target: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """In torch: the loss, its two parts, and its gradient with respect to the logits, rounded as autograd does."""
    B, K = logits_BK.shape
    check_range_on_cpu(_OP, "y_B", y_B, K)
    dtype = arithmetic_type(logits_BK, target_BK)
    logits_BK, target_BK = logits_BK.to(dtype), target_BK.to(dtype)
    log_p_BK = logits_BK.log_softmax(dim=1)
    log_s_BK = (logits_BK / temperature).log_softmax(dim=1)
    q_BK = (target_BK / temperature).softmax(dim=1) if soften_target else target_BK
    losses_BK = (torch.xlogy(q_BK, q_BK) - q_BK * log_s_BK).masked_fill_(q_BK == 0, 0)
    kl = temperature**2 * (losses_BK.sum() / B)
    ce = -log_p_BK.gather(1, y_B[:, None]).sum() / B
    slope = logits_BK.new_full((), alpha) * temperature**2 / B
    by_kl_BK = torch.ops.aten._log_softmax_backward_data(q_BK * -slope, log_s_BK, 1, dtype) / temperature
    one_hot_BK = torch.zeros_like(log_p_BK).scatter_(1, y_B[:, None], 1.0)
    slope = logits_BK.new_full((), gamma) / B
    by_ce_BK = torch.ops.aten._log_softmax_backward_data(one_hot_BK * -slope, log_p_BK, 1, dtype)
    return alpha * kl + gamma * ce, torch.stack([kl, ce]), by_kl_BK + by_ce_BK


distillation_loss_op = torch.library.custom_op("rnet::distillation_loss", _reference, mutates_args=())


def by_triton(
    logits_BK: Tensor,
    target_BK: Tensor,
    y_B: Tensor,
    temperature: float,
    alpha: float,
    gamma: float,
    soften_target: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference, on CUDA or under Triton's interpreter; a label out of range makes its row NaN."""
    from rnet.kernels.triton.distillation_loss import launch

    return launch(logits_BK, target_BK, y_B, temperature, alpha, gamma, soften_target)


distillation_loss_op.register_kernel("cuda")(on_cuda(_reference, by_triton))


@distillation_loss_op.register_fake
def _fake(logits_BK, target_BK, y_B, temperature, alpha, gamma, soften_target):  # type: ignore[no-untyped-def]
    dtype = arithmetic_type(logits_BK, target_BK)
    return (
        logits_BK.new_empty((), dtype=dtype),
        logits_BK.new_empty((2,), dtype=dtype),
        logits_BK.new_empty(logits_BK.shape, dtype=dtype),
    )


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, parts_2, gradient_BK = output
    ctx.mark_non_differentiable(parts_2, gradient_BK)
    ctx.save_for_backward(gradient_BK)
    ctx.dtype = inputs[0].dtype


def _backward(ctx, grad_loss, *_):  # type: ignore[no-untyped-def]
    (gradient_BK,) = ctx.saved_tensors
    if grad_loss.requires_grad:
        scaled_BK = (grad_loss * gradient_BK).to(ctx.dtype)
    else:  # one pass
        scaled_BK = torch.mul(gradient_BK, grad_loss, out=torch.empty_like(gradient_BK, dtype=ctx.dtype))
    return scaled_BK, None, None, None, None, None, None


distillation_loss_op.register_autograd(_backward, setup_context=_setup_context)
