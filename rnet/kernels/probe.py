"""Whether the fused operations work on a device: each is tried on a few numbers and compared with plain torch."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from rnet.kernels.admissible_mix import mixed_target
from rnet.kernels.distillation_loss import distillation_loss
from rnet.kernels.latent_step import latent_step


@lru_cache
def problem_on(device: torch.device) -> str:
    """Why the fused operations cannot be used on the device; empty if they can. Compiles kernels and waits for them."""
    try:
        found = [tensor.cpu() for tensor in _results(device)]
    except Exception as error:  # compilers and drivers raise what they like
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    for name, own, expected in zip(
        ("latent_step", "mixed_target", "distillation_loss"), found, _results(), strict=True
    ):
        if not torch.allclose(own, expected, atol=1e-5):
            return f"{name} computes something else than on a CPU"
    return ""


def _results(device: torch.device | str = "cpu") -> list[Tensor]:
    """What each operation makes of the same few numbers."""
    draw = torch.Generator().manual_seed(0)
    z, noise, gradient = (torch.randn(4, 6, 3, 5, generator=draw).to(device) for _ in range(3))
    logits_BK = torch.randn(4, 7, generator=draw).to(device)
    y_B = torch.tensor([0, 6, 2, 2]).to(device)
    perm_BC = torch.stack([torch.randperm(6, generator=draw) for _ in range(4)]).to(device)
    distance = torch.linalg.vector_norm(noise)
    z1, _ = latent_step(z + noise, z, gradient / 1000, distance, perm_BC, channel_axis=1, weight=0.1, step_size=0.01)
    mixed_BK = mixed_target(logits_BK, y_B, "official")
    loss, _ = distillation_loss(logits_BK, mixed_BK, y_B, temperature=20.0, alpha=0.2, gamma=0.6, soften_target=True)
    return [z1, mixed_BK, loss]
