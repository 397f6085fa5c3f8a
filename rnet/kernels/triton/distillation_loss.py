"""The distillation loss: a program for all rows of few classes, for each row of many."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

LARGEST_BLOCK = 8192
"""Classes at once: 16 for each of 512 threads. Larger rows are read block by block."""
FEW = 4096
"""Of so many elements one program takes all rows, which spares the launch that adds them up."""


@triton.jit
def _of_classes(logits, target, is_y, cooler, p_log, s_log, q_log, q_sum, by_kl, by_ce, SOFTEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """What classes add to KL, before T^2, and their gradient, from logits (and mixed scores) less the row's largest.

    p_log, s_log, q_log: logarithms of the row's sums of exponentials; q_sum: of a target that is given.
    """
    log_s = logits * cooler - s_log
    if SOFTEN:
        log_q = target * cooler - q_log
        q = tl.exp(log_q)
        q_mass = 1.0
    else:
        q = target
        log_q = tl.log(q)
        q_mass = q_sum
    toward_q = tl.exp(log_s) * q_mass - q
    toward_y = tl.exp(logits - p_log) - tl.where(is_y, 1.0, 0.0)
    return tl.where(q == 0, 0.0, q * (log_q - log_s)), by_kl * toward_q + by_ce * toward_y


@triton.jit
def _store_means(loss_ptr, parts_ptr, kl_total, ce_total, B, alpha, gamma):  # type: ignore[no-untyped-def]
    kl = kl_total / B
    ce = ce_total / B
    tl.store(parts_ptr, kl)
    tl.store(parts_ptr + 1, ce)
    tl.store(loss_ptr, alpha * kl + gamma * ce)


@triton.jit
def rows_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,  # (B, K), strides logits_b, logits_k
    target_ptr,  # (B, K), strides target_b, target_k
    y_ptr,  # (B,)
    rows_ptr,  # (2, B): KL, which includes T^2, and cross-entropy of each row; not written where WHOLE
    loss_ptr,  # (): where WHOLE
    parts_ptr,  # (2,): where WHOLE, the mean KL and cross-entropy
    gradient_ptr,  # (B, K), contiguous
    B,
    K,
    logits_b,
    logits_k,
    target_b,
    target_k,
    y_b,
    temperature,
    by_kl,  # alpha * T / B
    by_ce,  # gamma / B
    alpha,
    gamma,
    SOFTEN: tl.constexpr,
    WHOLE: tl.constexpr,  # one program has all rows
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows that fit in registers: each is read once."""
    b = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = b.to(tl.int64)[:, None]
    k = tl.arange(0, BLOCK)[None, :]
    inside = (b < B)[:, None] & (k < K)
    cooler = 1.0 / temperature
    minus_infinity = float("-inf")

    y = tl.load(y_ptr + b * y_b, mask=b < B, other=0)
    logits_row = logits_ptr + row * logits_b
    logits = tl.load(logits_row + k * logits_k, mask=inside, other=minus_infinity).to(tl.float32)
    target_row = target_ptr + row * target_b + k * target_k
    target = tl.load(target_row, mask=inside, other=minus_infinity if SOFTEN else 0.0).to(tl.float32)
    valid = (y >= 0) & (y < K)
    logits -= tl.max(logits, axis=1)[:, None]
    p_log = tl.log(tl.sum(tl.exp(logits), axis=1))
    p_log = tl.where(valid, p_log, float("nan"))  # spoils the row's cross-entropy and gradient
    s_log = tl.log(tl.sum(tl.exp(logits * cooler), axis=1))
    if SOFTEN:
        target -= tl.max(target, axis=1)[:, None]
        q_sum = tl.sum(tl.exp(target * cooler), axis=1)
    else:
        q_sum = tl.sum(target, axis=1)
    is_y = k == y[:, None]
    kl, gradient = _of_classes(
        logits, target, is_y, cooler, p_log[:, None], s_log[:, None], tl.log(q_sum)[:, None], q_sum[:, None],
        by_kl, by_ce, SOFTEN,
    )  # fmt: skip
    tl.store(gradient_ptr + row * K + k, gradient, mask=inside)
    kl = tl.sum(kl, axis=1) * temperature * temperature
    ce = p_log - tl.sum(tl.where(is_y, logits, 0.0), axis=1)
    if WHOLE:
        kl_total = tl.sum(tl.where(b < B, kl, 0.0), axis=0)
        ce_total = tl.sum(tl.where(b < B, ce, 0.0), axis=0)
        _store_means(loss_ptr, parts_ptr, kl_total, ce_total, B, alpha, gamma)
    else:
        tl.store(rows_ptr + b, kl, mask=b < B)
        tl.store(rows_ptr + B + b, ce, mask=b < B)


@triton.jit
def mean_kernel(rows_ptr, loss_ptr, parts_ptr, B, alpha, gamma, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of (2, B) KL and cross-entropy of rows, in one program: their means (2,) and the loss ()."""
    kl_total = tl.zeros([BLOCK], tl.float32)
    ce_total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, B, BLOCK):
        b = start + tl.arange(0, BLOCK)
        kl_total += tl.load(rows_ptr + b, mask=b < B, other=0.0)
        ce_total += tl.load(rows_ptr + B + b, mask=b < B, other=0.0)
    _store_means(loss_ptr, parts_ptr, tl.sum(kl_total, axis=0), tl.sum(ce_total, axis=0), B, alpha, gamma)


@triton.jit
def long_rows_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,  # (B, K), strides logits_b, logits_k
    target_ptr,  # (B, K), strides target_b, target_k
    y_ptr,  # (B,)
    rows_ptr,  # (2, B), as above
    gradient_ptr,  # (B, K), contiguous
    B,
    K,
    logits_b,
    logits_k,
    target_b,
    target_k,
    y_b,
    temperature,
    by_kl,
    by_ce,
    SOFTEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row per program, read block by block."""
    b = tl.program_id(0).to(tl.int64)
    logits_ptr += b * logits_b
    target_ptr += b * target_b
    gradient_ptr += b * K
    cooler = 1.0 / temperature
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
        s_total += tl.exp(logits * cooler)
        if SOFTEN:
            target = tl.load(target_ptr + k * target_k, mask=k < K, other=minus_infinity).to(tl.float32)
            q_total += tl.exp((target - target_max) * cooler)
        else:
            q_total += tl.load(target_ptr + k * target_k, mask=k < K, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + b * y_b)
    valid = (y >= 0) & (y < K)
    p_log = tl.log(tl.sum(p_total, axis=0))
    p_log = tl.where(valid, p_log, float("nan"))  # spoils the row's cross-entropy and gradient
    s_log = tl.log(tl.sum(s_total, axis=0))
    q_sum = tl.sum(q_total, axis=0)
    q_log = tl.log(q_sum)

    kl_total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + k * logits_k, mask=k < K, other=minus_infinity).to(tl.float32) - logits_max
        if SOFTEN:
            target = tl.load(target_ptr + k * target_k, mask=k < K, other=minus_infinity).to(tl.float32) - target_max
        else:
            target = tl.load(target_ptr + k * target_k, mask=k < K, other=0.0).to(tl.float32)
        kl, gradient = _of_classes(
            logits, target, k == y, cooler, p_log, s_log, q_log, q_sum, by_kl, by_ce, SOFTEN
        )  # fmt: skip
        kl_total += kl
        tl.store(gradient_ptr + k, gradient, mask=k < K)
    y_logit = tl.load(logits_ptr + y * logits_k, mask=valid, other=0.0).to(tl.float32)
    tl.store(rows_ptr + b, tl.sum(kl_total, axis=0) * temperature * temperature)
    tl.store(rows_ptr + B + b, p_log - (y_logit - logits_max))


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
    loss, parts_2 = rows_2B.new_empty(()), rows_2B.new_empty(2)
    given, strides = (logits_BK, target_BK, y_B), (*logits_BK.stride(), *target_BK.stride(), y_B.stride(0))
    weights = (temperature, alpha * temperature / B, gamma / B)
    BLOCK = triton.next_power_of_2(K)
    whole = triton.next_power_of_2(B) * BLOCK <= FEW
    ROWS = triton.next_power_of_2(B) if whole else max(1, FEW // 4 // BLOCK)
    with torch.cuda.device_of(logits_BK):
        if BLOCK <= LARGEST_BLOCK:
            rows_kernel[(triton.cdiv(B, ROWS),)](
                *given, rows_2B, loss, parts_2, gradient_BK, B, K, *strides, *weights, alpha, gamma,
                SOFTEN=soften_target, WHOLE=whole, ROWS=ROWS, BLOCK=BLOCK,
                num_warps=max(1, min(16, ROWS * BLOCK // 128)), enable_fp_fusion=True,
            )  # fmt: skip
        else:
            long_rows_kernel[(B,)](
                *given, rows_2B, gradient_BK, B, K, *strides, *weights,
                SOFTEN=soften_target, BLOCK=LARGEST_BLOCK, num_warps=16, enable_fp_fusion=True,
            )  # fmt: skip
        if not whole:
            mean_kernel[(1,)](rows_2B, loss, parts_2, B, alpha, gamma, BLOCK=min(1024, triton.next_power_of_2(B)))
    return loss, parts_2, gradient_BK
