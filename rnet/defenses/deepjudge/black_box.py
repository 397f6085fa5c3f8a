"""DeepJudge's black-box half: which test images become seeds, the adversarial cases made of them, RobD and JSD.

Source: Chen et al., "Copy, Right? A Testing Framework for Copyright Protection of Deep Learning Models", IEEE S&P 2022.
Shapes: N seeds or cases, C channels, H height, W width, K classes. Pixels are in [0, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.data.images import Dataset, Part
from rnet.defenses.queries import linf_pgd, logits_of

CW_FIRST_CONSTANT = 0.01  # as in the authors' program, which searches three times
CW_NO_UPPER_BOUND = 1e10


def part_logits(model: nn.Module, part: Part, batch_size: int, role: str = "victim") -> Tensor:
    """Float32 logits (N, K) of every image of a part on the model's device; images are loaded a batch at a time."""
    return torch.cat(
        [
            logits_of(model, part.pixels(indices_B), batch_size, role=role)
            for indices_B in torch.arange(len(part)).split(batch_size)
        ]
    )


def most_certain(logits_NK: Tensor, labels_N: Tensor, count: int, *, squared_logits: bool = False) -> Tensor:
    """Indices (M,), M <= count, of the rightly classified images with largest sum of squared probabilities, in order.

    Ties go to the lower index; probabilities are float64, because in float32 many certain images tie at 1.
    squared_logits: the released port's ranking by the sum of squared *logits*, which rewards large norms.
    """
    scores_NK = logits_NK.double() if squared_logits else logits_NK.double().softmax(dim=1)
    right_M = (logits_NK.argmax(dim=1) == labels_N.to(logits_NK.device)).nonzero().squeeze(1)
    certainty_M = scores_NK[right_M].square().sum(dim=1)
    return right_M[certainty_M.argsort(descending=True, stable=True)[:count]]


def pgd(
    victim: nn.Module,
    x_NCHW: Tensor,
    labels_N: Tensor,
    noise_NCHW: Tensor,
    *,
    step_size: float,
    num_steps: int,
    radius: float | None,
    box: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """x + noise moved num_steps times by step_size * sign of the cross-entropy's gradient, clamped; (N, C, H, W).

    radius: also projected to that Linf ball around x; None as in the authors' program, where the distance may grow to
    the start's plus num_steps * step_size. box: lowest and highest value of each channel, (C, 1, 1) each; None: [0, 1].
    """
    low_C11, high_C11 = box if box is not None else (x_NCHW.new_zeros(1, 1, 1), x_NCHW.new_ones(1, 1, 1))
    width_C11 = high_C11 - low_C11

    def objective(unit_NCHW: Tensor) -> Tensor:
        return F.cross_entropy(victim(unit_NCHW * width_C11 + low_C11).float(), labels_N, reduction="sum")

    found_NCHW = linf_pgd(
        objective,
        (x_NCHW - low_C11) / width_C11,
        step=step_size / width_C11,
        steps=num_steps,
        radius=None if radius is None else radius / width_C11,
        start=(x_NCHW + noise_NCHW - low_C11) / width_C11,
    )
    return found_NCHW * width_C11 + low_C11


def fgsm(victim: nn.Module, x_NCHW: Tensor, labels_N: Tensor, *, epsilon: float, box: bool = True) -> Tensor:
    """One step of epsilon along the sign of the cross-entropy's gradient (Goodfellow et al. 2015), clamped if box."""
    with torch.enable_grad():
        leaf_NCHW = x_NCHW.detach().clone().requires_grad_(True)
        loss = F.cross_entropy(victim(leaf_NCHW).float(), labels_N, reduction="sum")
        (gradient_NCHW,) = torch.autograd.grad(loss, leaf_NCHW)
    moved_NCHW = x_NCHW + epsilon * gradient_NCHW.sign()
    return moved_NCHW.clamp_(0.0, 1.0) if box else moved_NCHW


def carlini_wagner(
    victim: nn.Module,
    x_NCHW: Tensor,
    labels_N: Tensor,
    *,
    confidence: float,
    learning_rate: float,
    num_steps: int,
    searches: int,
) -> Tensor:
    """Smallest-l2 images on which some class beats the label by `confidence`; x itself where none is found.

    Carlini and Wagner 2017, untargeted, in tanh space: Adam on ||x' - x||^2 + c * relu(Z_y - max_{t != y} Z_t +
    confidence), with `searches` rounds of binary search for each image's own c, from 0.01 and tenfold until it works.
    """
    start_NCHW = torch.atanh((2 * x_NCHW - 1) * 0.999999)
    reference_NCHW = (torch.tanh(start_NCHW) + 1) / 2
    best_NCHW, best_N = x_NCHW.clone(), x_NCHW.new_full((len(x_NCHW),), math.inf)
    c_N = torch.full_like(best_N, CW_FIRST_CONSTANT)
    low_N, high_N = torch.zeros_like(c_N), torch.full_like(c_N, CW_NO_UPPER_BOUND)
    is_label_NK: Tensor | None = None
    for _ in range(searches):
        w_NCHW = start_NCHW.clone().requires_grad_(True)
        adam = torch.optim.Adam([w_NCHW], lr=learning_rate)
        found_N = torch.zeros_like(labels_N, dtype=torch.bool)
        for _ in range(num_steps):
            with torch.enable_grad():
                image_NCHW = (torch.tanh(w_NCHW) + 1) / 2
                logits_NK = victim(image_NCHW).float()
                if is_label_NK is None:
                    is_label_NK = F.one_hot(labels_N, logits_NK.shape[1]).bool()
                lead_N = logits_NK[is_label_NK] - logits_NK.masked_fill(is_label_NK, -math.inf).amax(dim=1)
                distance_N = (image_NCHW - reference_NCHW).square().flatten(1).sum(dim=1)
                loss = (distance_N + c_N * torch.relu(lead_N + confidence)).sum()
                (w_NCHW.grad,) = torch.autograd.grad(loss, w_NCHW)
            adam.step()
            success_N = lead_N.detach() < -confidence
            better_N = success_N & (distance_N.detach() < best_N)
            found_N |= success_N
            best_N = torch.where(better_N, distance_N.detach(), best_N)
            best_NCHW = torch.where(better_N[:, None, None, None], image_NCHW.detach(), best_NCHW)
        high_N = torch.where(found_N, torch.minimum(high_N, c_N), high_N)
        low_N = torch.where(found_N, low_N, torch.maximum(low_N, c_N))
        c_N = torch.where(high_N < CW_NO_UPPER_BOUND, (low_N + high_N) / 2, c_N * 10)
    return best_NCHW


def normalised_scalar_box(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixel box (low, high), (C, 1, 1) each, that one scalar box around all normalised channels amounts to.

    The released port clamps normalised images to [min, max] over all channels of the normalised 0 and 1, so that a
    channel with another mean or spread than the extreme one may leave [0, 1].
    """
    mean_C11, std_C11 = (
        torch.tensor(values, device=device).view(-1, 1, 1) for values in (dataset.mean_C, dataset.std_C)
    )
    lowest, highest = (-mean_C11 / std_C11).min(), ((1 - mean_C11) / std_C11).max()
    return mean_C11 + std_C11 * lowest, mean_C11 + std_C11 * highest


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
