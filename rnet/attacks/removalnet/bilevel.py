"""The mathematics of RemovalNet's two lower levels and its upper level, as pure functions of tensors.

RemovalNet (Yao et al., IEEE TDSC 2023) solves, anew for every batch, two lower-level problems (a latent and a logits
target that lack the victim's fingerprint) and takes one upper-level step towards them.

Shapes: B samples of the batch, G of the global batch, C channels, K classes; z is any (B, ..., C, ...) feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rnet.kernels.admissible_mix import MIXING_WEIGHTS
from rnet.kernels.partners import first_argmax

Distance = Literal["l2", "cosine"]
TargetMode = Literal["official", "logits", "probs"]

Total = Callable[[Tensor], Tensor]
"""A scalar of this process -> its sum over all processes that share the batch."""

LOG_DISTANCE_WEIGHT = 0.1
STEP_SIZE = 0.01
COSINE_FLOOR = 1e-12


def alone(value: Tensor) -> Tensor:
    """The Total of one process."""
    return value


def apply_permutation(z: Tensor, perm_BC: Tensor, channel_axis: int) -> Tensor:
    """Channels of each sample rearranged: out[b, c] = z[b, perm_BC[b, c]] along the channel axis. Same shape as z."""
    if channel_axis == 1 and z.ndim == 4 and z.is_contiguous(memory_format=torch.channels_last):
        return apply_permutation(z.movedim(1, -1), perm_BC, -1).movedim(-1, 1)  # gather would return it contiguous
    axis = channel_axis % z.ndim
    shape = [1] * z.ndim
    shape[0], shape[axis] = perm_BC.shape
    return torch.gather(z, axis, perm_BC.view(shape).expand_as(z))


def latent_distance(z1: Tensor, z: Tensor, kind: Distance = "l2", total: Total = alone) -> Tensor:
    """D(z1, z), a scalar. `l2`: ONE Frobenius norm over the global batch; `cosine`: its sum of (1 - cos) + 1e-12."""
    if kind == "l2":
        return total((z1 - z).square().sum()).sqrt()
    return total(_cosine_distances(z1, z).sum()) + COSINE_FLOOR


def log_distance_gradient(z1: Tensor, z: Tensor, kind: Distance = "l2", total: Total = alone) -> Tensor:
    """Gradient of log D(z1, z) at this process's z1, same shape."""
    if kind == "l2":
        difference = z1 - z
        return difference.div_(total(difference.square().sum()))
    with torch.enable_grad():
        leaf = z1.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(_cosine_distances(leaf, z).sum(), leaf)
    return gradient / latent_distance(z1, z, kind, total)


def latent_start(z: Tensor, u: Tensor, perm_BC: Tensor | None, channel_axis: int) -> Tensor:
    """Where the latent level starts: shuffle(z + tan(u)) for u uniform on [0, 1), same shape as z.

    perm_BC: the shuffle; None for one that moves nothing.
    """
    start = z + torch.tan(u)
    return start if perm_BC is None else apply_permutation(start, perm_BC, channel_axis)


def latent_gradient(
    tail: Callable[[Tensor], Tensor],
    z1: Tensor,
    z: Tensor,
    y_B: Tensor,
    kind: Distance = "l2",
    weight: float = LOG_DISTANCE_WEIGHT,
    *,
    processes: int = 1,
    total: Total = alone,
    chunks: int = 1,
) -> Tensor:
    """Gradient at z1 of [mean cross-entropy of tail(z1) with y - weight * log D(z1, z)]; no `.grad` is touched.

    tail must be in eval mode. Cross-entropy and distance are computed in float32 or better, and both over the global
    batch: of `processes` equal shares, whose scalars `total` adds up. chunks: how many parts go through the tail one
    after the other, to save memory.
    """
    gradient = cross_entropy_gradient(tail, z1, y_B, chunks)
    away = log_distance_gradient(_at_least_float32(z1.detach()), _at_least_float32(z.detach()), kind, total)
    mean = _at_least_float32(gradient) / (len(z1) * processes)
    return mean.sub_(away.mul_(weight)).to(z1.dtype)


def cross_entropy_gradient(tail: Callable[[Tensor], Tensor], z1: Tensor, y_B: Tensor, chunks: int = 1) -> Tensor:
    """Gradient at z1 of the cross-entropy of tail(z1) with y, summed over the samples; as z1.

    The sum and not the mean: in float16 a mean's gradients would underflow.
    """
    gradients = []
    for part, y_b in zip(z1.detach().chunk(chunks), y_B.chunk(chunks), strict=True):
        with torch.enable_grad():
            leaf = part.detach().requires_grad_(True)
            loss = F.cross_entropy(_at_least_float32(tail(leaf)), y_b, reduction="sum")
            gradients.append(torch.autograd.grad(loss, leaf)[0])
    return torch.cat(gradients) if chunks > 1 else gradients[0]


def latent_step(
    tail: Callable[[Tensor], Tensor],
    z1: Tensor,
    z: Tensor,
    y_B: Tensor,
    perm_BC: Tensor | None,
    channel_axis: int,
    *,
    step_size: float = STEP_SIZE,
    kind: Distance = "l2",
    weight: float = LOG_DISTANCE_WEIGHT,
    processes: int = 1,
    total: Total = alone,
    chunks: int = 1,
) -> Tensor:
    """One step of the latent level: shuffle z1, then move it by step_size against the sign of its gradient.

    perm_BC: the shuffle; None for one that moves nothing. The rest is as in latent_gradient.
    """
    shuffled = z1 if perm_BC is None else apply_permutation(z1, perm_BC, channel_axis)
    gradient = latent_gradient(tail, shuffled, z, y_B, kind, weight, processes=processes, total=total, chunks=chunks)
    return shuffled - gradient.sign_().mul_(step_size)


def partners(p_BK: Tensor, gallery_GK: Tensor | None = None) -> Tensor:
    """int64 (B,): which sample of the global batch has the farthest probabilities in l2 (ties: the lowest index).

    gallery_GK: probabilities of the global batch; p_BK itself on one process.
    """
    gallery_GK = p_BK if gallery_GK is None else gallery_GK
    distances_BG = torch.cdist(p_BK, gallery_GK, compute_mode="donot_use_mm_for_euclid_dist")
    return first_argmax(distances_BG)


def first_admissible(scores_iK: Tensor, scores_jK: Tensor, y_B: Tensor) -> Tensor:
    """(B,): the first weight b in .3, .4, ..., .9 for which b*i + (1-b)*j has its (first) argmax at y; 1 if none.

    y is the victim's label: the surrogate's own argmax may differ, so the admissible weights form an interval.
    """
    b_W = scores_iK.new_tensor(MIXING_WEIGHTS)
    mixed_BWK = b_W[None, :, None] * scores_iK[:, None] + (1 - b_W)[None, :, None] * scores_jK[:, None]
    admissible_BW = first_argmax(mixed_BWK) == y_B[:, None]
    first_B = first_argmax(admissible_BW.to(b_W.dtype))
    return torch.where(admissible_BW.any(dim=1), b_W[first_B], torch.ones_like(b_W[first_B]))


def logits_target(
    logits_BK: Tensor,
    y_B: Tensor,
    temperature: float,
    mode: TargetMode,
    *,
    gallery_GK: Tensor | None = None,
) -> Tensor:
    """The logits level: the distribution q (B, K) the student is drawn to, from the surrogate's eval-mode logits.

    mode: `official` softmax(m / T) of the mixed *probabilities* m (as released); `logits` softmax(mixed logits / T), b
    chosen on the mixed logits; `probs` m itself. gallery_GK: logits of the global batch when that is not logits_BK.
    """
    logits_BK = _at_least_float32(logits_BK)
    gallery_GK = logits_BK if gallery_GK is None else _at_least_float32(gallery_GK)
    p_BK, gallery_p_GK = logits_BK.softmax(dim=1), gallery_GK.softmax(dim=1)
    j_B = partners(p_BK, gallery_p_GK)
    scores_iK, scores_jK = (logits_BK, gallery_GK[j_B]) if mode == "logits" else (p_BK, gallery_p_GK[j_B])
    b_B1 = first_admissible(scores_iK, scores_jK, y_B)[:, None]
    mixed_BK = b_B1 * scores_iK + (1 - b_B1) * scores_jK
    return mixed_BK if mode == "probs" else (mixed_BK / temperature).softmax(dim=1)


def upper_loss(
    logits_BK: Tensor,
    z: Tensor,
    z1: Tensor,
    q_BK: Tensor,
    y_B: Tensor,
    *,
    T: float,
    alpha: float,
    beta: float,
    gamma: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """alpha*T^2*KL(q || softmax(S/T)) + beta*MSE(z, z1) + gamma*CE(S, y), and its parts before alpha, beta and gamma.

    KL is summed over classes and averaged over the batch, MSE is the mean over every element, CE the batch mean. z1 and
    q are constants. The reported "kl" includes T^2.
    """
    logits_BK = _at_least_float32(logits_BK)
    q_BK = q_BK.detach()
    kl = T**2 * F.kl_div(F.log_softmax(logits_BK / T, dim=1), q_BK, reduction="batchmean")
    mse = feature_error(z, z1)
    ce = F.cross_entropy(logits_BK, y_B)
    return alpha * kl + beta * mse + gamma * ce, {"kl": kl.detach(), "mse": mse.detach(), "ce": ce.detach()}


def feature_error(z: Tensor, z1: Tensor) -> Tensor:
    """Mean squared error between features and their latent target, over every element; z1 is a constant."""
    return F.mse_loss(_at_least_float32(z), _at_least_float32(z1.detach()))


def _cosine_distances(z1: Tensor, z: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(z1.flatten(1), z.flatten(1), dim=1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
