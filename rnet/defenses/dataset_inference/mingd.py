"""Dataset Inference's MinGD: how far the gradient must lead before a model says another class; needs the weights.

Source: the authors' program. Its features for ten classes are the ways to each class (MinGD), for more those to the
likeliest ones (TopGD).

Shapes: B images, D target classes, P pairs of an image and a target, A pairs that go on, C channels, H height, W width,
K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnet.data.pixels import as_pixels
from rnet.defenses.dataset_inference.blind_walk import NORMS
from rnet.defenses.dataset_inference.config import DatasetInferenceConfig
from rnet.defenses.queries import logits_of, quick_copy, samples_per_chunk
from rnet.rewrites.modes import device_of, frozen_eval
from rnet.training.monitor.progress import tell


def mingd_margins(
    config: DatasetInferenceConfig, model: nn.Module, images_NCHW: Tensor, *, role: str = "suspect"
) -> Tensor:
    """How near other classes are: float64 (N, 3 * D) on the CPU, for each norm the sorted lengths of the ways there.

    images_NCHW: uint8. Targets are all classes, the model's own with length 0, if there are at most num_directions of
    them, and else the num_directions likeliest classes after the first.
    """
    walked, device = quick_copy(model), device_of(model)
    pairs = samples_per_chunk(model, as_pixels(images_NCHW[:1]), config.memory_mb)
    rows: list[Tensor] = []
    with frozen_eval(walked):
        for images_BCHW in images_NCHW.split(max(1, pairs // config.num_directions)):
            tell(len(rows), -(-len(images_NCHW) // max(1, pairs // config.num_directions)), "chunks of images")
            x_BCHW = as_pixels(images_BCHW.to(device))
            target_BD = targets(logits_of(walked, x_BCHW, role=role), config.num_directions)
            x_PCHW = x_BCHW.repeat_interleave(target_BD.shape[1], dim=0)
            sizes = []
            for norm, order in NORMS.items():
                delta_PCHW = way_to(config, walked, x_PCHW, target_BD.flatten(), norm)
                length_P = torch.linalg.vector_norm(delta_PCHW.double().flatten(1), order, dim=1)
                sizes.append(length_P.view(target_BD.shape).sort(dim=1).values)
            rows.append(torch.cat(sizes, dim=1).cpu())
    return torch.cat(rows)


def targets(logits_BK: Tensor, most: int) -> Tensor:
    """Classes to go to, (B, D): all in order if there are at most `most`, else the `most` likeliest after the first."""
    classes = logits_BK.shape[1]
    if classes <= most:
        return torch.arange(classes, device=logits_BK.device).repeat(len(logits_BK), 1)
    return logits_BK.argsort(dim=1, descending=True)[:, 1 : most + 1]


def way_to(config: DatasetInferenceConfig, model: nn.Module, x_PCHW: Tensor, target_P: Tensor, norm: str) -> Tensor:
    """What is added to each image, (P, C, H, W), by steepest descent in the norm until the model says the target.

    The loss is the largest logit minus the target's. A pair that has arrived stays there; after mingd_steps all do.
    """
    delta_PCHW = torch.zeros_like(x_PCHW)
    going_A = torch.arange(len(target_P), device=target_P.device)
    for _ in range(config.mingd_steps):
        with torch.enable_grad():
            leaf_ACHW = delta_PCHW[going_A].requires_grad_(True)
            logits_AK = model(x_PCHW[going_A] + leaf_ACHW).float()
            wanted_A = logits_AK.gather(1, target_P[going_A, None]).squeeze(1)
            (gradient_ACHW,) = torch.autograd.grad((wanted_A - logits_AK.amax(dim=1)).sum(), leaf_ACHW)
        on_A = logits_AK.argmax(dim=1) != target_P[going_A]
        going_A, x_ACHW = going_A[on_A], x_PCHW[going_A[on_A]]
        if len(going_A) == 0:
            break
        delta_ACHW, gradient_ACHW = leaf_ACHW.detach()[on_A], gradient_ACHW[on_A]
        if norm == "linf":
            step_ACHW = config.mingd_linf_step * gradient_ACHW.sign()
        elif norm == "l2":
            length_A = (gradient_ACHW + 1e-12).flatten(1).norm(dim=1)
            step_ACHW = config.mingd_l2_step * gradient_ACHW / length_A[:, None, None, None]
        else:
            step_ACHW = config.mingd_l1_step * steepest(gradient_ACHW, x_ACHW + delta_ACHW, config)
        moved_ACHW = delta_ACHW + step_ACHW
        delta_PCHW[going_A] = torch.minimum(torch.maximum(moved_ACHW, -x_ACHW), 1 - x_ACHW)
    return delta_PCHW


def steepest(gradient_ACHW: Tensor, there_ACHW: Tensor, config: DatasetInferenceConfig) -> Tensor:
    """The direction of an l1 step: the sign of the gradient at the pixels where it is largest, 1 / their number each.

    Pixels on the border of [0, 1], and those within mingd_gap of the border they would cross, take no part.
    """
    gap, flat_AE = config.mingd_gap, gradient_ACHW.flatten(1)
    there_AE = there_ACHW.flatten(1)
    stuck_AE = (there_AE <= 0) | (there_AE >= 1)
    stuck_AE |= ((flat_AE < 0) & (there_AE <= gap)) | ((flat_AE > 0) & (there_AE >= 1 - gap))
    flat_AE = flat_AE.masked_fill(stuck_AE, 0.0)
    count = min(config.mingd_pixels, flat_AE.shape[1])
    least_A1 = flat_AE.abs().topk(count, dim=1).values[:, -1:]
    return ((flat_AE.abs() >= least_A1) * flat_AE.sign() / config.mingd_pixels).view_as(gradient_ACHW)
