"""The first admissible mix, a program per sample: all seven weights are tried in one pass over the two rows."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

LARGEST_BLOCK = 4096


@triton.jit
def _either(left, right):  # type: ignore[no-untyped-def]
    return left | right


@triton.jit
def admissible_mix_kernel(  # type: ignore[no-untyped-def]
    scores_ptr,  # (B, K), strides scores_b, scores_k
    gallery_ptr,  # (G, K), strides gallery_g, gallery_k
    partner_ptr,  # (B,)
    y_ptr,  # (B,)
    mixed_ptr,  # (B, K), contiguous
    weight_ptr,  # (B,)
    G,
    K,
    scores_b,
    scores_k,
    gallery_g,
    gallery_k,
    partner_b,
    y_b,
    PAIRS: tl.constexpr,  # (b, 1 - b) for each weight
    WEIGHTS: tl.constexpr,  # how many
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    partner = tl.load(partner_ptr + row * partner_b)
    y = tl.load(y_ptr + row * y_b)
    valid = (partner >= 0) & (partner < G) & (y >= 0) & (y < K)
    scores_ptr += row * scores_b
    gallery_ptr += tl.where(valid, partner, 0) * gallery_g
    mixed_ptr += row * K
    y = tl.where(valid, y, 0)
    own_y = tl.load(scores_ptr + y * scores_k).to(tl.float32)
    other_y = tl.load(gallery_ptr + y * gallery_k).to(tl.float32)

    beaten = tl.zeros([BLOCK], tl.int32)  # bit w: weight w has a class here that comes before y in the order of scores
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        own = tl.load(scores_ptr + k * scores_k, mask=k < K, other=0.0).to(tl.float32)
        other = tl.load(gallery_ptr + k * gallery_k, mask=k < K, other=0.0).to(tl.float32)
        for w in tl.static_range(WEIGHTS):
            mix = PAIRS[w][0] * own + PAIRS[w][1] * other
            at_y = PAIRS[w][0] * own_y + PAIRS[w][1] * other_y
            before = (mix > at_y) | ((mix == at_y) & (k < y))
            beaten = beaten | (tl.where(before & (k < K), 1, 0) << w)
            beaten = beaten | (tl.where((mix != mix) & (k < K), 1, 0) << WEIGHTS)
    losers = tl.reduce(beaten, 0, _either)
    # A NaN for one weight is one for all; the reference's argmax is then the last class.
    losers = tl.where((losers >> WEIGHTS) & 1 == 0, losers, tl.where(y == K - 1, 0, (1 << WEIGHTS) - 1))
    b = 1.0
    for w in tl.static_range(WEIGHTS - 1, -1, -1):
        b = tl.where((losers >> w) & 1 == 0, PAIRS[w][0], b)
    b = tl.where(valid, b, float("nan"))
    rest = 1.0 - b
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        own = tl.load(scores_ptr + k * scores_k, mask=k < K, other=0.0).to(tl.float32)
        other = tl.load(gallery_ptr + k * gallery_k, mask=k < K, other=0.0).to(tl.float32)
        tl.store(mixed_ptr + k, b * own + rest * other, mask=k < K)
    tl.store(weight_ptr + row, b)


def launch(
    scores_BK: Tensor, gallery_GK: Tensor, partner_B: Tensor, y_B: Tensor, pairs: tuple[tuple[float, float], ...]
) -> tuple[Tensor, Tensor]:
    """admissible_mix for up to float32, on CUDA, or on a CPU under Triton's interpreter. pairs: (b, 1 - b) each."""
    (B, K), G = scores_BK.shape, gallery_GK.shape[0]
    mixed_BK = torch.empty(B, K, dtype=torch.float32, device=scores_BK.device)
    b_B = torch.empty(B, dtype=torch.float32, device=scores_BK.device)
    BLOCK = min(triton.next_power_of_2(K), LARGEST_BLOCK)
    with torch.cuda.device_of(scores_BK):
        admissible_mix_kernel[(B,)](
            scores_BK, gallery_GK, partner_B, y_B, mixed_BK, b_B, G, K,
            *scores_BK.stride(), *gallery_GK.stride(), partner_B.stride(0), y_B.stride(0),
            PAIRS=pairs, WEIGHTS=len(pairs), BLOCK=BLOCK,
            num_warps=max(1, min(8, BLOCK // 512)), enable_fp_fusion=False,
        )  # fmt: skip
    return mixed_BK, b_B
