"""ModelDiff's perturbed inputs by the victim's gradients: PGD on the cross-entropy, or their notebook's loss.

Shapes: N seeds, M of a chunk, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.modeldiff.config import ModelDiffConfig
from rnet.defenses.queries import linf_pgd, samples_per_chunk, seeded_generator
from rnet.parallel.collectives import map_rows

# Radius and step: pixels for `default`, normalised units (pixels over the standard deviation of the channel) for
# `original`, as in the authors' notebook.
SIZES = {"default": (8 / 255, 2 / 255), "original": (0.06, 0.01)}
GRADIENT_STEPS = 50
# The notebook's loss sends the outputs away from a far target and gives output 0 ten times the weight of the others.
TARGET_SCALE, OTHERS_WEIGHT = 1000.0, 0.1


def ascended_versions(
    config: ModelDiffConfig, victim: nn.Module, x_NCHW: Tensor, logits_NK: Tensor, dataset: Dataset, seed: int
) -> Tensor:
    """Perturbed versions (N, C, H, W) of the seeds: sign-gradient ascent from a uniform start in the ball.

    logits_NK: the victim's on the seeds.
    """
    radius, step = (
        default if value is None else value
        for value, default in zip((config.epsilon, config.step), SIZES[config.pairs], strict=True)
    )
    unit_C11 = torch.ones(x_NCHW.shape[1], 1, 1)
    if config.pairs == "original":
        # A step in normalised space is a step of std in pixels, channel by channel.
        unit_C11 = torch.tensor(dataset.std_C, dtype=torch.float32).view(-1, 1, 1)
    generator = seeded_generator(seed, "modeldiff/start")
    noise_NCHW = torch.rand(x_NCHW.shape, generator=generator) * 2 - 1
    start_NCHW = x_NCHW + (noise_NCHW * radius * unit_C11).to(x_NCHW.device)
    unit_C11 = unit_C11.to(x_NCHW.device)
    goal_N = logits_NK.argmax(dim=1)
    far_NK = TARGET_SCALE * (logits_NK.mean(dim=0) - logits_NK)

    def objective_of(label_M: Tensor, far_MK: Tensor) -> Callable[[Tensor], Tensor]:
        if config.pairs == "default":
            return lambda x: F.cross_entropy(victim(x).float(), label_M, reduction="sum")
        return lambda x: shift_objective(victim(x).float(), far_MK).sum()

    size = samples_per_chunk(victim, x_NCHW, config.memory_mb)

    def search(*starts_N: Tensor) -> Tensor:
        parts = zip(*(t.split(size) for t in starts_N), strict=True)
        return torch.cat(
            [
                linf_pgd(
                    objective_of(label_M, far_MK),
                    x_MCHW,
                    step=step * unit_C11,
                    steps=config.steps or GRADIENT_STEPS,
                    radius=radius * unit_C11,
                    start=start_MCHW,
                )
                for x_MCHW, start_MCHW, label_M, far_MK in parts
            ]
        )

    return map_rows(search, x_NCHW, start_NCHW, goal_N, far_NK)


def shift_objective(logits_NK: Tensor, far_NK: Tensor) -> Tensor:
    """(o_0 - t_0)^2 + .1 * mean over c > 0 of (o_c - t_c)^2, shape (N,): the loss of the authors' notebook, ascended.

    far_NK: the target t, 1000 times (mean of the victim's logits over the seeds minus its logits on the seed).
    """
    squares_NK = (logits_NK - far_NK).square()
    return squares_NK[:, 0] + OTHERS_WEIGHT * squares_NK[:, 1:].mean(dim=1)
