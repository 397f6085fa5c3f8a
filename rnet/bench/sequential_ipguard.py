"""IPGuard's search written the obvious way, one query at a time: the yardstick for the batched one in rnet.defenses.

Shapes: N queries, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnet.rewrites.modes import frozen_eval


def sequential_ipguard(
    victim: nn.Module,
    x_NCHW: Tensor,
    i_N: Tensor,
    j_N: Tensor,
    *,
    k: float = 10.0,
    learning_rate: float = 0.01,
    steps: int = 1000,
) -> Tensor:
    """Queries (N, C, H, W) in [0, 1]: each image moved by its own Adam until the objective of IPGuard is <= 1e-5.

    x_NCHW, i_N, j_N: images, their classes and the classes to reach, on the victim's device, e.g. from
    `IPGuard.starting_points`. The arguments k, learning_rate and steps are those of IPGuardConfig.
    """
    queries = []
    with frozen_eval(victim):
        for n in range(len(x_NCHW)):
            x_1CHW = x_NCHW[n : n + 1].clone().requires_grad_(True)
            adam = torch.optim.Adam([x_1CHW], lr=learning_rate)
            for _ in range(steps):
                loss = _objective(victim(x_1CHW)[0], int(i_N[n]), int(j_N[n]), k)
                if loss.item() <= 1e-5:
                    break
                adam.zero_grad()
                loss.backward()
                adam.step()
                with torch.no_grad():
                    x_1CHW.clamp_(0.0, 1.0)
            queries.append(x_1CHW.detach())
    return torch.cat(queries)


def _objective(logits_K: Tensor, i: int, j: int, k: float) -> Tensor:
    loss = torch.relu(logits_K[i] - logits_K[j] + k)
    others = [logits_K[t] for t in range(len(logits_K)) if t not in (i, j)]
    return loss + torch.relu(torch.stack(others).max() - logits_K[i]) if others else loss
