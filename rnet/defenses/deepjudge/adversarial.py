"""DeepJudge's three ways from a seed to an adversarial case: PGD, FGSM and Carlini-Wagner.

Source: Chen et al., IEEE S&P 2022, and the authors' program; Madry et al. 2018, Goodfellow et al. 2015, Carlini and
Wagner 2017. Shapes: N images, A of them still searched for, C channels, H height, W width, K classes. Pixels are in
[0, 1]; the victim is frozen and in eval mode.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.queries import linf_pgd
from rnet.defenses.row_adam import RowAdam
from rnet.training.monitor.progress import tell

CW_FIRST_CONSTANT = 0.01  # as in the authors' program, which searches three times
CW_NO_UPPER_BOUND = 1e10
CW_PROGRESS = 0.9999  # of the loss a tenth of the steps ago: who is above it makes none


def pgd(
    victim: nn.Module,
    x_NCHW: Tensor,
    labels_N: Tensor,
    noise_NCHW: Tensor,
    *,
    step_size: float | Tensor,
    num_steps: int,
    radius: float | Tensor | None,
    box: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """x + noise moved num_steps times by step_size * sign of the cross-entropy's gradient, clamped; (N, C, H, W).

    radius: also projected to that Linf ball around x; None as in the authors' program, where the distance may grow to
    the start's plus num_steps * step_size. box: lowest and highest value of each channel, (C, 1, 1) each; None: [0, 1].
    step_size, radius: in pixel units, for each channel if (C, 1, 1).
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


def fgsm(
    victim: nn.Module,
    x_NCHW: Tensor,
    labels_N: Tensor,
    noise_NCHW: Tensor,
    *,
    epsilon: float | Tensor,
    box: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """x + noise, clamped, moved once by epsilon along the sign of the cross-entropy's gradient, and clamped again."""
    return pgd(victim, x_NCHW, labels_N, noise_NCHW, step_size=epsilon, num_steps=1, radius=None, box=box)


def carlini_wagner(
    victim: nn.Module,
    x_NCHW: Tensor,
    labels_N: Tensor,
    *,
    confidence: float,
    learning_rate: float,
    num_steps: int,
    searches: int,
    abort_early: bool = True,
    keras: bool = True,
) -> Tensor:
    """Smallest-l2 images on which some class beats the label by `confidence`; x itself where none is found.

    Untargeted, in tanh space: Adam, one for all searches, on ||x' - x||^2 + c * relu(Z_y - max_{t != y} Z_t +
    confidence), with `searches` rounds of binary search for each image's own c, from 0.01 and tenfold until it works.
    abort_early: an image's search ends where its loss is not below .9999 of what it was a tenth of the steps before.
    Images do not influence each other: the authors' program aborts 50 of them together.
    """
    start_NCHW = torch.atanh((2 * x_NCHW - 1) * 0.999999)
    reference_NCHW = (torch.tanh(start_NCHW) + 1) / 2
    best_NCHW, best_N = x_NCHW.clone(), x_NCHW.new_full((len(x_NCHW),), math.inf)
    c_N = torch.full_like(best_N, CW_FIRST_CONSTANT)
    low_N, high_N = torch.zeros_like(c_N), torch.full_like(c_N, CW_NO_UPPER_BOUND)
    adam, age_N = RowAdam.start(x_NCHW, keras=keras), torch.zeros_like(labels_N)
    for number in range(searches):
        tell(number, searches, "binary searches")
        w_NCHW, last_N = start_NCHW.clone(), torch.full_like(best_N, math.inf)
        found_N = torch.zeros_like(labels_N, dtype=torch.bool)
        row_A = torch.arange(len(x_NCHW), device=x_NCHW.device)
        for step in range(num_steps):
            with torch.enable_grad():
                w_ACHW = w_NCHW[row_A].requires_grad_(True)
                image_ACHW = (torch.tanh(w_ACHW) + 1) / 2
                lead_A = _lead(victim(image_ACHW).float(), labels_N[row_A])
                distance_A = (image_ACHW - reference_NCHW[row_A]).square().flatten(1).sum(dim=1)
                loss_A = distance_A + c_N[row_A] * torch.relu(lead_A + confidence)
                (gradient_ACHW,) = torch.autograd.grad(loss_A.sum(), w_ACHW)
            age_N[row_A] += 1
            own = adam.select(row_A)
            w_NCHW[row_A] -= own.step(gradient_ACHW, age_N[row_A][:, None, None, None], learning_rate)
            adam.mean[row_A], adam.square[row_A] = own.mean, own.square
            image_ACHW, lead_A, distance_A, loss_A = (
                tensor.detach() for tensor in (image_ACHW, lead_A, distance_A, loss_A)
            )
            going_A = torch.ones_like(row_A, dtype=torch.bool)
            if abort_early and step % max(num_steps // 10, 1) == 0:
                going_A = loss_A <= last_N[row_A] * CW_PROGRESS
                last_N[row_A] = loss_A
            success_A = going_A & (lead_A < -confidence)
            found_N[row_A] |= success_A
            better_A = success_A & (distance_A < best_N[row_A])
            best_N[row_A[better_A]] = distance_A[better_A]
            best_NCHW[row_A[better_A]] = image_ACHW[better_A]
            row_A = row_A[going_A]
            if len(row_A) == 0:
                break
        high_N = torch.where(found_N, torch.minimum(high_N, c_N), high_N)
        low_N = torch.where(found_N, low_N, torch.maximum(low_N, c_N))
        c_N = torch.where(high_N < CW_NO_UPPER_BOUND, (low_N + high_N) / 2, c_N * 10)
    return best_NCHW


def _lead(logits_AK: Tensor, labels_A: Tensor) -> Tensor:
    """By how much the label's logit exceeds the largest other one, (A,)."""
    is_label_AK = F.one_hot(labels_A, logits_AK.shape[1]).bool()
    return logits_AK[is_label_AK] - logits_AK.masked_fill(is_label_AK, -math.inf).amax(dim=1)


def normalised_scalar_box(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixel box (low, high), (C, 1, 1) each, that one scalar box around all normalised channels amounts to.

    Normalised images are then clamped to [min, max] over all channels of the normalised 0 and 1, so that a channel with
    another mean or spread than the extreme one may leave [0, 1].
    """
    mean_C11, std_C11 = (
        torch.tensor(values, device=device).view(-1, 1, 1) for values in (dataset.mean_C, dataset.std_C)
    )
    lowest, highest = (-mean_C11 / std_C11).min(), ((1 - mean_C11) / std_C11).max()
    return mean_C11 + std_C11 * lowest, mean_C11 + std_C11 * highest
