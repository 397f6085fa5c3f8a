"""The mathematics of RemovalNet's two lower levels and its upper level, as pure functions of tensors.

RemovalNet (Yao et al., IEEE TDSC 2023) solves, anew for every batch, two lower-level problems (a latent and a logits
target that lack the victim's fingerprint) and takes one upper-level step towards them. The elementwise work is that of
rnet.kernels: one formula, on CUDA a Triton kernel.

Shapes: B samples of the batch, G of the global batch, C channels, K classes; z is any (B, ..., C, ...) feature map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rnet.kernels import latent_step as fused
from rnet.kernels.admissible_mix import mixed_target
from rnet.kernels.distillation_loss import distillation_loss

if TYPE_CHECKING:
    from rnet.engines.lower_level import Network

LOG_DISTANCE_WEIGHT = 0.1
STEP_SIZE = 0.01
COSINE_FLOOR = 1e-12


# --- the latent level


def apply_permutation(z: Tensor, perm_BC: Tensor | None, channel_axis: int) -> Tensor:
    """Channels of each sample rearranged: out[b, c] = z[b, perm_BC[b, c]] along the channel axis; None: z itself."""
    if perm_BC is None:
        return z
    if channel_axis == 1 and z.ndim == 4 and z.is_contiguous(memory_format=torch.channels_last):
        return apply_permutation(z.movedim(1, -1), perm_BC, -1).movedim(-1, 1)  # gather would return it contiguous
    axis = channel_axis % z.ndim
    shape = [1] * z.ndim
    shape[0], shape[axis] = perm_BC.shape
    return torch.gather(z, axis, perm_BC.view(shape).expand_as(z))


def distance_share(z1: Tensor, z: Tensor, kind: str = "l2") -> Tensor:
    """What this process's samples add to D(z1, z), 0-dim. l2: their squares; cosine: their sum of 1 - cos."""
    return (z1 - z).square().sum() if kind == "l2" else _cosine_distances(z1, z).sum()


def distance(total: Tensor, kind: str = "l2") -> Tensor:
    """D from the sum of all shares. l2: ONE Frobenius norm over the global batch; cosine: the sum plus 1e-12."""
    return total.sqrt() if kind == "l2" else total + COSINE_FLOOR


def latent_step(
    network: Network,
    z1: Tensor,
    z: Tensor,
    share: Tensor,
    y_B: Tensor,
    next_perm_BC: Tensor | None,
    channel_axis: int,
    *,
    kind: str = "l2",
    weight: float = LOG_DISTANCE_WEIGHT,
    step_size: float = STEP_SIZE,
) -> tuple[Tensor, Tensor]:
    """z1 moved by step_size against the sign of the gradient of [mean cross-entropy of tail(z1) with y - weight * log
    D(z1, z)], then shuffled; and its share of the next distance.

    The paper's step shuffles first: so z1 comes shuffled, and next_perm_BC is the next step's shuffle; None moves
    nothing. share: distance_share of z1 and z. Mean and distance are over the global batch.
    """
    gradient = network.gradient(summed_cross_entropy, z1, y_B)
    total, samples = network.total(share), network.count(z1)
    if kind == "l2":
        return fused.latent_step(
            z1, z, gradient, total, next_perm_BC, channel_axis=channel_axis, weight=weight, step_size=step_size,
            samples=samples,
        )  # fmt: skip
    away = cosine_gradient(z1, z).div_(distance(total, kind)).mul_(weight)
    moved = z1 - gradient.div_(samples).sub_(away).sign_().mul_(step_size)
    z1 = apply_permutation(moved, next_perm_BC, channel_axis)
    return z1, distance_share(z1, z, kind)


def summed_cross_entropy(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """0-dim. The sum and not the mean: in float16 a mean's gradients would underflow."""
    return F.cross_entropy(_at_least_float32(logits_BK), y_B, reduction="sum")


def cosine_gradient(z1: Tensor, z: Tensor) -> Tensor:
    """Gradient at z1 of the sum of 1 - cos(z1, z), as z1."""
    with torch.enable_grad():
        leaf = z1.detach().requires_grad_(True)
        return torch.autograd.grad(_cosine_distances(leaf, z).sum(), leaf)[0]


# --- the logits level


def logits_target(
    logits_BK: Tensor, y_B: Tensor, temperature: float, mode: str, *, gallery_GK: Tensor | None = None
) -> Tensor:
    """The logits level: the distribution q (B, K) the student is drawn to, from the surrogate's eval-mode logits.

    mode: `official` softmax(m / T) of the mixed *probabilities* m (as released); `logits` softmax(mixed logits / T), b
    chosen on the mixed logits; `probs` m itself. gallery_GK: logits of the global batch when that is not logits_BK.
    """
    mixed_BK = mixed_target(logits_BK, y_B, mode, gallery_GK=gallery_GK)
    return mixed_BK if mode == "probs" else (mixed_BK / temperature).softmax(dim=1)


# --- the upper level


def upper_loss(
    logits_BK: Tensor,
    z: Tensor,
    z1: Tensor | None,
    q_BK: Tensor | None,
    y_B: Tensor,
    *,
    T: float,
    alpha: float,
    beta: float,
    gamma: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """alpha*T^2*KL(q || softmax(S/T)) + beta*MSE(z, z1) + gamma*CE(S, y), and its parts before alpha, beta and gamma.

    KL is summed over classes and averaged over the batch, MSE is the mean over every element, CE the batch mean. z1 and
    q are constants; without one of them its term is left out. The reported "kl" includes T^2.
    """
    if q_BK is None:
        ce = F.cross_entropy(_at_least_float32(logits_BK), y_B)
        on_logits, parts = gamma * ce, {"ce": ce.detach()}
    else:
        on_logits, parts = distillation_loss(
            logits_BK, q_BK, y_B, temperature=T, alpha=alpha, gamma=gamma, soften_target=False
        )
    if z1 is None:
        return on_logits, parts
    mse = F.mse_loss(_at_least_float32(z), _at_least_float32(z1.detach()))
    return on_logits + beta * mse, {**parts, "mse": mse.detach()}


def _cosine_distances(z1: Tensor, z: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(z1.flatten(1), z.flatten(1), dim=1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
