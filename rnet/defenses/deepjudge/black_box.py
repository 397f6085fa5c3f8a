"""DeepJudge's black-box half: which test images become seeds, the cases that fool the victim, RobD and JSD.

Source: Chen et al., "Copy, Right? A Testing Framework for Copyright Protection of Deep Learning Models", IEEE S&P 2022.
Shapes: N seeds or cases, B of them at once, E numbers of an image, C channels, H height, W width, K classes. Pixels are
in [0, 1].
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset, Part
from rnet.defenses.deepjudge.adversarial import carlini_wagner, fgsm, normalised_scalar_box, pgd
from rnet.defenses.deepjudge.config import DeepJudgeConfig
from rnet.defenses.queries import logits_of
from rnet.draws import uniform
from rnet.errors import UserError
from rnet.parallel.collectives import map_rows
from rnet.rewrites.modes import device_of


def part_logits(model: nn.Module, part: Part, batch_size: int, role: str = "victim") -> Tensor:
    """Float32 logits (N, K) of every image of a part on the model's device; images are loaded a batch at a time."""
    return torch.cat(
        [
            logits_of(model, part.pixels(indices_B), batch_size, role=role)
            for indices_B in torch.arange(len(part)).split(batch_size)
        ]
    )


def most_certain(logits_NK: Tensor, labels_N: Tensor, count: int, *, rank: str = "probabilities") -> Tensor:
    """Indices (M,), M <= count, of the rightly classified images with largest sum of squared probabilities, in order.

    Ties go to the lower index; probabilities are float64, because in float32 many certain images tie at 1.
    rank="logits": by the sum of squared logits instead, which rewards large norms.
    """
    scores_NK = logits_NK.double() if rank == "logits" else logits_NK.double().softmax(dim=1)
    right_M = (logits_NK.argmax(dim=1) == labels_N.to(logits_NK.device)).nonzero().squeeze(1)
    certainty_M = scores_NK[right_M].square().sum(dim=1)
    return right_M[certainty_M.argsort(descending=True, stable=True)[:count]]


def units_of(config: DeepJudgeConfig, dataset: Dataset, device: torch.device) -> Tensor:
    """One unit of the sizes of steps, in pixels: 1, or the standard deviation of each channel; (C, 1, 1)."""
    unit_C = dataset.std_C if config.units == "normalised" else [1.0] * dataset.channels
    return torch.tensor(unit_C, dtype=torch.float32, device=device).view(-1, 1, 1)


def make_cases(
    config: DeepJudgeConfig, victim: nn.Module, dataset: Dataset, seeds_N: Tensor, seed: int, chunk: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The adversarial cases that fool the victim: case_NCHW, their label_N, and the victim's logits victim_NK.

    Also how many they are, for the metadata. Raises UserError if there is none.
    """

    def search(share_N: Tensor) -> Tensor:
        found = [_adversarial(config, victim, dataset, indices_B, seed) for indices_B in share_N.split(chunk)]
        return torch.cat(found)

    x_NCHW, labels_N = map_rows(search, seeds_N), dataset.test.labels_N[seeds_N]
    found_N = logits_of(victim, x_NCHW, chunk, role="victim").argmax(dim=1).cpu()
    fooled_A = (found_N != labels_N).nonzero().squeeze(1)
    if len(fooled_A) == 0:
        raise UserError(
            f"defense.attack={config.attack} fools the victim on none of {len(seeds_N)} seeds, so RobD and JSD have no "
            f"test case; raise defense.num_steps or defense.epsilon, or choose another attack"
        )
    case_ACHW = x_NCHW[fooled_A.to(x_NCHW.device)]
    tensors = {
        "case_NCHW": case_ACHW.cpu(),
        "label_N": labels_N[fooled_A],
        "victim_NK": logits_of(victim, case_ACHW, chunk, role="victim").cpu(),
    }
    return tensors, {"num_cases": len(fooled_A), "case_share": len(fooled_A) / len(seeds_N)}


def _adversarial(config: DeepJudgeConfig, victim: nn.Module, dataset: Dataset, indices_B: Tensor, seed: int) -> Tensor:
    x_BCHW = dataset.test.pixels(indices_B, device_of(victim))
    labels_B = dataset.test.labels_N[indices_B].to(x_BCHW.device)
    if config.attack == "cw":
        return carlini_wagner(
            victim, x_BCHW, labels_B,
            confidence=config.cw_confidence, learning_rate=config.cw_learning_rate, num_steps=config.cw_steps,
            searches=config.cw_searches, abort_early=config.cw_abort_early, keras=config.adam == "keras",
        )  # fmt: skip
    unit_C11 = units_of(config, dataset, x_BCHW.device)
    epsilon_C11 = config.epsilon * unit_C11
    noise_BCHW = torch.zeros_like(x_BCHW)
    if config.random_start:
        draws_BE = uniform(seed, "deepjudge/start", 0, indices_B, x_BCHW[0].numel(), device=x_BCHW.device)
        noise_BCHW = epsilon_C11 * (2 * draws_BE - 1).view_as(x_BCHW)
    box = normalised_scalar_box(dataset, x_BCHW.device) if config.clamp == "scalar" else None
    if config.attack == "fgsm":
        return fgsm(victim, x_BCHW, labels_B, noise_BCHW, epsilon=epsilon_C11, box=box)
    return pgd(
        victim, x_BCHW, labels_B, noise_BCHW,
        step_size=config.step_size * unit_C11, num_steps=config.num_steps,
        radius=epsilon_C11 if config.project else None, box=box,
    )  # fmt: skip


def robustness_distance(labels_N: Tensor, victim_NK: Tensor, suspect_NK: Tensor) -> float:
    """RobD, |accuracy of the suspect - accuracy of the victim| on the cases' labels; a distance in [0, 1]."""
    victim_right, suspect_right = (
        int((logits_NK.argmax(dim=1) == labels_N.to(logits_NK.device)).sum()) for logits_NK in (victim_NK, suspect_NK)
    )
    return abs(suspect_right - victim_right) / len(labels_N)


def jensen_shannon(victim_NK: Tensor, suspect_NK: Tensor) -> float:
    """JSD, the mean Jensen-Shannon divergence of the two models' probabilities, from logits, in nats; in [0, ln 2]."""
    p_NK, q_NK = victim_NK.to(suspect_NK.device).double().softmax(dim=1), suspect_NK.double().softmax(dim=1)
    m_NK = (p_NK + q_NK) / 2
    divergence_N = (_divergence(p_NK, m_NK) + _divergence(q_NK, m_NK)) / 2
    return float(divergence_N.mean().clamp(0.0, math.log(2)))


def _divergence(p_NK: Tensor, q_NK: Tensor) -> Tensor:
    """KL(p || q) per row, exactly 0 where p equals q; 0 log 0 is 0."""
    return (torch.xlogy(p_NK, p_NK) - torch.xlogy(p_NK, q_NK)).sum(dim=1)
