"""Euclidean distances between all pairs of rows, a program per tile of pairs; the argmax over them is torch's."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor


@triton.jit
def distances_kernel(  # type: ignore[no-untyped-def]
    p_ptr,  # (B, K), strides p_b, p_k
    gallery_ptr,  # (G, K), strides gallery_g, gallery_k
    distances_ptr,  # (B, G), contiguous
    B,
    G,
    K,
    p_b,
    p_k,
    gallery_g,
    gallery_k,
    BLOCK_B: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    b = (tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    g = (tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)).to(tl.int64)
    b_B11 = b[:, None, None]
    g_1G1 = g[None, :, None]
    # One accumulator per (pair, class in the block): the sum over the block's classes is taken once, at the end.
    squares_BGK = tl.zeros([BLOCK_B, BLOCK_G, BLOCK_K], tl.float32)
    for start in range(0, K, BLOCK_K):
        k_11K = (start + tl.arange(0, BLOCK_K))[None, None, :]
        p = tl.load(p_ptr + b_B11 * p_b + k_11K * p_k, mask=(b_B11 < B) & (k_11K < K), other=0.0)
        gallery = tl.load(
            gallery_ptr + g_1G1 * gallery_g + k_11K * gallery_k, mask=(g_1G1 < G) & (k_11K < K), other=0.0
        )
        off_BGK = p.to(tl.float32) - gallery.to(tl.float32)
        squares_BGK += off_BGK * off_BGK
    # The root matters: it makes ties of sums that differ in the last bit, as the reference's distances do.
    distances_BG = tl.sqrt_rn(tl.sum(squares_BGK, axis=2))
    tl.store(distances_ptr + b[:, None] * G + g[None, :], distances_BG, mask=(b[:, None] < B) & (g[None, :] < G))


def distances(p_BK: Tensor, gallery_GK: Tensor) -> Tensor:
    """float32 (B, G) for types up to float32, on CUDA, or on a CPU under Triton's interpreter."""
    (B, K), G = p_BK.shape, gallery_GK.shape[0]
    BLOCK_B, BLOCK_G, BLOCK_K = 8, 16, 32
    distances_BG = torch.empty(B, G, dtype=torch.float32, device=p_BK.device)
    with torch.cuda.device_of(p_BK):
        distances_kernel[(triton.cdiv(B, BLOCK_B), triton.cdiv(G, BLOCK_G))](
            p_BK, gallery_GK, distances_BG, B, G, K, *p_BK.stride(), *gallery_GK.stride(),
            BLOCK_B=BLOCK_B, BLOCK_G=BLOCK_G, BLOCK_K=BLOCK_K, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return distances_BG
