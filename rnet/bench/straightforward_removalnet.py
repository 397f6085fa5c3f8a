"""RemovalNet written down line by line in eager float32: the yardstick of `rnet bench attack`, and an oracle in tests.

No folding, no channels_last, no autocast, no shared helper but the random draws, which are given so that both programs
compute the same. Yao et al., IEEE TDSC 2023; one optimizer step of the l2 distance and the official target.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from rnet.cutting.split import SplitModel, channel_axis


def straightforward_step(
    split: SplitModel,
    optimizer: Optimizer,
    x_BCHW: Tensor,
    y_B: Tensor,
    u: Tensor,
    perms_PBC: Tensor,
    *,
    temperature: float,
    alpha: float,
    beta: float,
    gamma: float,
) -> Tensor:
    """The loss of one step, after which the parameters have moved. u: as z; perms_PBC: the shuffles, one per call."""
    split.eval()
    with torch.no_grad():
        z = split.head(x_BCHW)
        p_BK = split.tail(z).softmax(dim=1)
    axis = channel_axis(z)

    def shuffle(latent: Tensor, perm_BC: Tensor) -> Tensor:
        return torch.stack([row.index_select(axis - 1, perm_C) for row, perm_C in zip(latent, perm_BC, strict=True)])

    z1 = shuffle(z + torch.tan(u), perms_PBC[0])
    for perm_BC in perms_PBC[1:]:
        z1 = shuffle(z1, perm_BC).requires_grad_(True)
        objective = F.cross_entropy(split.tail(z1), y_B) - 0.1 * torch.log((z1 - z).square().sum().sqrt())
        (gradient,) = torch.autograd.grad(objective, z1)
        z1 = (z1 - 0.01 * gradient.sign()).detach()

    farthest_B = torch.cdist(p_BK, p_BK, compute_mode="donot_use_mm_for_euclid_dist").argmax(dim=1)
    mixed_BK = p_BK.clone()
    for n, (own_K, other_K, y) in enumerate(zip(p_BK, p_BK[farthest_B], y_B, strict=True)):
        for b in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            mix_K = b * own_K + (1 - b) * other_K
            if int(mix_K.argmax()) == int(y):
                mixed_BK[n] = mix_K
                break
    q_BK = (mixed_BK / temperature).softmax(dim=1)

    split.train()
    logits_BK, features = split(x_BCHW, return_features=True)
    kl = F.kl_div(F.log_softmax(logits_BK / temperature, dim=1), q_BK, reduction="batchmean")
    loss = alpha * temperature**2 * kl + beta * F.mse_loss(features, z1) + gamma * F.cross_entropy(logits_BK, y_B)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def bare_passes(split: SplitModel, x_BCHW: Tensor, y_B: Tensor, steps: int) -> None:
    """The network passes that a step cannot do without: no shuffles, distances, draws or optimizer.

    One eval forward, `steps` forward and backward passes of the tail for the gradient of z, one train forward and
    backward.
    """
    split.eval()
    with torch.no_grad():
        z = split.head(x_BCHW)
        split.tail(z)
    for _ in range(steps):
        leaf = z.detach().requires_grad_(True)
        torch.autograd.grad(F.cross_entropy(split.tail(leaf), y_B), leaf)
    split.train()
    F.cross_entropy(split(x_BCHW), y_B).backward()
    for parameter in split.parameters():
        parameter.grad = None
