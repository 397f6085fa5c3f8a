"""Dataset Inference's Blind Walk: how far random directions lead before a model's label is lost; labels suffice.

Shapes: B images, D directions per norm, W walks (an image, a norm, a direction), M multiples tried at once, A walks
that go on, C channels, H height, W width of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnet.data.pixels import as_pixels
from rnet.defenses.dataset_inference.config import DatasetInferenceConfig
from rnet.defenses.queries import logits_of, quick_copy, samples_per_chunk
from rnet.draws import uniform
from rnet.rewrites.modes import device_of
from rnet.training.monitor.progress import tell

NORMS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
MULTIPLES_AT_ONCE = 5  # a flip is looked for in so many multiples with one forward pass


def blind_margins(
    config: DatasetInferenceConfig,
    model: nn.Module,
    images_NCHW: Tensor,
    label_N: Tensor,
    seed: int,
    purpose: str,
    *,
    role: str = "suspect",
) -> Tensor:
    """How far a model's label holds out: float64 (N, 3 * D), linf walks first, then l2, then l1; on the CPU.

    images_NCHW: uint8. A walk goes delta, 2 delta, 3 delta ... from the image, clamped to [0, 1], until the model's
    label is not label_N any more; its feature is the norm of the clamped delta there. A walk that keeps its label up to
    max_multiple ends at capped_multiple. An image the model gets wrong from the start stops at the first step. All
    walks of a chunk of images are one batch.
    """
    device, directions_per_norm = device_of(model), config.num_directions
    batch_size = samples_per_chunk(model, as_pixels(images_NCHW[:1]), config.memory_mb)
    walked = quick_copy(model)
    capped = config.max_multiple if config.capped_multiple is None else config.capped_multiple
    walk_bytes = 4 * images_NCHW[0].numel() * (2 * MULTIPLES_AT_ONCE + 6)
    images = max(1, int(config.memory_mb * 2**20 // (walk_bytes * 3 * directions_per_norm)))
    rows = []
    for indices_B in torch.arange(len(images_NCHW)).split(images):
        tell(int(indices_B[0]), len(images_NCHW), "images")
        x_BCHW = as_pixels(images_NCHW[indices_B].to(device))
        delta_BDCHW = directions(config, x_BCHW, indices_B, seed, purpose)
        walks = delta_BDCHW.shape[1]
        x_WCHW = x_BCHW.repeat_interleave(walks, dim=0)
        label_W = label_N[indices_B].to(device).repeat_interleave(walks)
        delta_WCHW = delta_BDCHW.flatten(0, 1)
        stop_W = last_multiples(walked, x_WCHW, label_W, delta_WCHW, config.max_multiple, capped, batch_size, role)
        moved_WCHW = stop_W[:, None, None, None] * delta_WCHW
        clamped_WCHW = torch.minimum(torch.maximum(moved_WCHW, -x_WCHW), 1 - x_WCHW)
        by_norm_B3DE = clamped_WCHW.double().view(len(x_BCHW), len(NORMS), directions_per_norm, -1)
        sizes = [torch.linalg.vector_norm(by_norm_B3DE[:, i], order, -1) for i, order in enumerate(NORMS.values())]
        rows.append(torch.cat(sizes, dim=1))
    return torch.cat(rows).cpu()


def directions(config: DatasetInferenceConfig, x_BCHW: Tensor, indices_B: Tensor, seed: int, purpose: str) -> Tensor:
    """Noise (B, 3 * D, C, H, W) for the images with these indices: uniform, then normal, then Laplace."""
    size = x_BCHW[0].numel()
    sets = []
    for norm in NORMS:
        stream, count = f"dataset_inference/{purpose}/{norm}", config.num_directions * size
        u = uniform(seed, stream, 0, indices_B, count, device=x_BCHW.device)
        u = u.double() + 2.0**-25  # the middle of each of 2^24 cells: never 0 or 1
        if norm == "linf":
            noise = config.linf_radius * (2 * u - 1)
        elif norm == "l2":
            noise = config.l2_std * torch.special.ndtri(u)
        else:
            noise = -config.l1_scale * (u - 0.5).sign() * torch.log1p(-2 * (u - 0.5).abs())
        sets.append(noise.to(x_BCHW.dtype).view(len(x_BCHW), config.num_directions, *x_BCHW.shape[1:]))
    return torch.cat(sets, dim=1)


def last_multiples(
    model: nn.Module,
    x_WCHW: Tensor,
    label_W: Tensor,
    delta_WCHW: Tensor,
    max_multiple: int,
    capped: int,
    batch_size: int,
    role: str,
) -> Tensor:
    """The first multiple 1, 2, ... of each delta at which the model's label is not label_W, else capped; (W,)."""
    stop_W = torch.full_like(label_W, capped)
    walking_A = torch.arange(len(label_W), device=label_W.device)
    for first in range(1, max_multiple + 1, MULTIPLES_AT_ONCE):
        multiple_M = torch.arange(first, min(first + MULTIPLES_AT_ONCE, max_multiple + 1), device=label_W.device)
        steps_AMCHW = delta_WCHW[walking_A, None] * multiple_M[:, None, None, None]
        there_AMCHW = (x_WCHW[walking_A, None] + steps_AMCHW).clamp_(0.0, 1.0)
        found_AM = logits_of(model, there_AMCHW.flatten(0, 1), batch_size, role=role).argmax(dim=1)
        held_AM = (found_AM.view(len(walking_A), -1) == label_W[walking_A, None]).cumprod(dim=1)
        held_A = held_AM.sum(dim=1)
        flipped_A = held_A < len(multiple_M)
        stop_W[walking_A[flipped_A]] = first + held_A[flipped_A]
        walking_A = walking_A[~flipped_A]
        if len(walking_A) == 0:
            break
    return stop_W
