"""The distillation loss, a program per sample: a row is read from memory once, and again from the cache."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

LARGEST_BLOCK = 8192
"""Classes at once: 16 for each of 512 threads. Larger rows are read block by block."""


@triton.jit
def distillation_loss_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,  # (B, K), strides logits_b, logits_k
    target_ptr,  # (B, K), strides target_b, target_k
    y_ptr,  # (B,)
    kl_ptr,  # (B,): includes T^2
    ce_ptr,  # (B,)
    gradient_ptr,  # (B, K), contiguous
    K,
    logits_b,
    logits_k,
    target_b,
    target_k,
    y_b,
    temperature,
    by_kl,  # alpha * T / B
    by_ce,  # gamma / B
    SOFTEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    logits_ptr += b * logits_b
    target_ptr += b * target_b
    gradient_ptr += b * K
    minus_infinity = float("-inf")

    logits_top = tl.full([BLOCK], minus_infinity, tl.float32)
    target_top = tl.full([BLOCK], minus_infinity, tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + k * logits_k, mask=k < K, other=minus_infinity).to(tl.float32)
        logits_top = tl.maximum(logits_top, logits)
        if SOFTEN:
            target = tl.load(target_ptr + k * target_k, mask=k < K, other=minus_infinity).to(tl.float32)
            target_top = tl.maximum(target_top, target)
    logits_max = tl.max(logits_top, axis=0)
    target_max = tl.max(target_top, axis=0)

    p_total = tl.zeros([BLOCK], tl.float32)
    s_total = tl.zeros([BLOCK], tl.float32)
    q_total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + k * logits_k, mask=k < K, other=minus_infinity).to(tl.float32) - logits_max
        p_total += tl.exp(logits)
        s_total += tl.exp(logits / temperature)
        if SOFTEN:
            target = tl.load(target_ptr + k * target_k, mask=k < K, other=minus_infinity).to(tl.float32)
            q_total += tl.exp((target - target_max) / temperature)
        else:
            q_total += tl.load(target_ptr + k * target_k, mask=k < K, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + b * y_b)
    valid = (y >= 0) & (y < K)
    p_log = tl.log(tl.sum(p_total, axis=0))
    p_log = tl.where(valid, p_log, float("nan"))  # spoils the row's cross-entropy and gradient
    s_log = tl.log(tl.sum(s_total, axis=0))
    q_sum = tl.sum(q_total, axis=0)
    q_log = tl.log(q_sum)

    kl = tl.zeros([BLOCK], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + k * logits_k, mask=k < K, other=minus_infinity).to(tl.float32) - logits_max
        log_s = logits / temperature - s_log
        if SOFTEN:
            target = tl.load(target_ptr + k * target_k, mask=k < K, other=minus_infinity).to(tl.float32)
            log_q = (target - target_max) / temperature - q_log
            q = tl.exp(log_q)
            q_mass = 1.0
        else:
            q = tl.load(target_ptr + k * target_k, mask=k < K, other=0.0).to(tl.float32)
            log_q = tl.log(q)
            q_mass = q_sum
        kl += tl.where(q == 0, 0.0, q * (log_q - log_s))
        toward_q = tl.exp(log_s) * q_mass - q
        toward_y = tl.exp(logits - p_log) - tl.where(k == y, 1.0, 0.0)
        tl.store(gradient_ptr + k, by_kl * toward_q + by_ce * toward_y, mask=k < K)
    y_logit = tl.load(logits_ptr + y * logits_k, mask=valid, other=0.0).to(tl.float32)
    tl.store(kl_ptr + b, tl.sum(kl, axis=0) * temperature * temperature)
    tl.store(ce_ptr + b, p_log - (y_logit - logits_max))


def launch(
    logits_BK: Tensor,
    target_BK: Tensor,
    y_B: Tensor,
    temperature: float,
    alpha: float,
    gamma: float,
    soften_target: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """distillation_loss for up to float32, on CUDA, or on a CPU under Triton's interpreter."""
    B, K = logits_BK.shape
    gradient_BK = torch.empty(B, K, dtype=torch.float32, device=logits_BK.device)
    rows_2B = torch.empty(2, B, dtype=torch.float32, device=logits_BK.device)
    BLOCK = min(triton.next_power_of_2(K), LARGEST_BLOCK)
    with torch.cuda.device_of(logits_BK):
        distillation_loss_kernel[(B,)](
            logits_BK, target_BK, y_B, rows_2B[0], rows_2B[1], gradient_BK, K,
            *logits_BK.stride(), *target_BK.stride(), y_B.stride(0),
            temperature, alpha * temperature / B, gamma / B,
            SOFTEN=soften_target, BLOCK=BLOCK, num_warps=max(1, min(16, BLOCK // 512)),
            enable_fp_fusion=True,
        )  # fmt: skip
    parts_2 = rows_2B.mean(dim=1)
    return torch.add(alpha * parts_2[0], parts_2[1], alpha=gamma), parts_2, gradient_BK
