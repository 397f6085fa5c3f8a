"""ModelDiff: pairs of similar inputs, and how alike two models are in how far apart they place each pair.

Source: Li, Zhang, Liu, Yang, Liu, Chen, "ModelDiff: Testing-Based DNN Similarity Comparison for Model Reuse
Detection", ISSTA 2021, and the authors' evaluation notebook (the `original` pairs). Here the inputs are pixels in
[0, 1], depend on the victim only and are shared by all suspects.

Shapes: N pairs, C channels, H height, W width, K classes. A pair is a seed image and its perturbed version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.metric import Metric
from rnet.defenses.modeldiff.config import ModelDiffConfig
from rnet.defenses.queries import (
    check_suspect,
    linf_pgd,
    logits_of,
    samples_per_chunk,
    seeded_generator,
    seeded_indices,
    train_mode_logits,
)
from rnet.errors import UserError
from rnet.models.access import Access
from rnet.parallel.collectives import map_rows
from rnet.rewrites.modes import device_of, frozen_eval

# Radius and step of the search: pixels for `default`, normalised units (pixels over the standard deviation of the
# channel) for `original`, as in the authors' notebook.
SIZES = {"default": (8 / 255, 2 / 255), "original": (0.06, 0.01)}
# The notebook's loss sends the outputs away from a far target and gives output 0 ten times the weight of the others.
TARGET_SCALE, OTHERS_WEIGHT = 1000.0, 0.1


class ModelDiff(Defense):
    """DDV and DDM similarity; needs logits.

    Tensors: seeds_NCHW, perturbed_NCHW and the victim's logits_seeds_NK, _perturbed_NK.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="ddv", direction="similarity", low=0.0, high=1.0, perfect=1.0),
        Metric(name="ddm", direction="similarity", low=0.0, high=1.0, perfect=1.0),
    )
    config: ModelDiffConfig

    def __init__(self, config: ModelDiffConfig) -> None:
        super().__init__(config)
        self.port = frozenset(config.released_port)

    def access(self, metric: Metric) -> Access:
        """Train mode needs the model itself."""
        return "white_box" if "train_mode_verification" in self.port else metric.access

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Perturbs training images and records the victim's logits on both versions (section 4 of the paper).

        Raises UserError when the dataset has too few training images or the victim does not tell any pair apart.
        """
        count = self.config.num_pairs
        if len(dataset.train) < count:
            raise UserError(
                f"defense.num_pairs={count} needs as many training images, but dataset {dataset.name} has "
                f"{len(dataset.train)}; lower defense.num_pairs"
            )
        indices_N = seeded_indices(len(dataset.train), count, seed, "modeldiff/images")
        seeds_NCHW = dataset.train.pixels(indices_N, device_of(victim))
        with frozen_eval(victim):
            perturbed_NCHW = self._perturb(victim, seeds_NCHW, dataset, seed)
        if "halves_as_pairs" in self.port:
            seeds_NCHW, perturbed_NCHW = perturbed_NCHW.chunk(2)
        seeds_NCHW, perturbed_NCHW = (
            t.cpu().clone(memory_format=torch.contiguous_format) for t in (seeds_NCHW, perturbed_NCHW)
        )
        logits_seeds_NK = self._logits(victim, seeds_NCHW, seed, "victim").cpu()
        logits_perturbed_NK = self._logits(victim, perturbed_NCHW, seed, "victim").cpu()
        distances_N = decision_distances(logits_seeds_NK, logits_perturbed_NK)
        if not distances_N.any() and "shift_on_seeds" not in self.port:
            raise UserError(
                "the victim's logits do not change between the seeds and their perturbed versions, so ModelDiff cannot "
                "compare it with anything; check that the victim is trained, or raise defense.epsilon"
            )
        tensors = {
            "seeds_NCHW": seeds_NCHW,
            "perturbed_NCHW": perturbed_NCHW,
            "logits_seeds_NK": logits_seeds_NK,
            "logits_perturbed_NK": logits_perturbed_NK,
        }
        changed_N = logits_seeds_NK.argmax(dim=1) != logits_perturbed_NK.argmax(dim=1)
        return Fingerprint.of(
            self, dataset, seed, tensors, num_classes=logits_seeds_NK.shape[1], num_pairs=len(seeds_NCHW),
            label_changed_share=float(changed_N.double().mean()), mean_decision_distance=float(distances_N.mean()),
        )  # fmt: skip

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """{"ddv": ..., "ddm": ...}: similarities of victim and suspect in [0, 1], 1 for the victim itself."""
        tensors = fingerprint.tensors
        seed = int(fingerprint.metadata["seed"]) + 1  # dropout in train mode differs from that of the victim
        seeds_NK = self._logits(suspect, tensors["seeds_NCHW"], seed, "suspect")
        check_suspect(fingerprint, seeds_NK)
        perturbed_NK = self._logits(suspect, tensors["perturbed_NCHW"], seed, "suspect")
        victim = tensors["logits_seeds_NK"], tensors["logits_perturbed_NK"]
        ddv = ddv_similarity(decision_distances(*victim), decision_distances(seeds_NK, perturbed_NK))
        ddm = ddm_similarity(torch.cat(victim), torch.cat((seeds_NK, perturbed_NK)))
        if "one_minus_ddm" in self.port:
            ddm = 1 - ddm
        if "ddm_as_ddv" in self.port:
            ddv = ddm
        return {"ddv": ddv, "ddm": ddm}

    def _logits(self, model: nn.Module, x_NCHW: Tensor, seed: int, role: str) -> Tensor:
        if "train_mode_verification" in self.port:
            return train_mode_logits(model, x_NCHW, seed=seed, role=role)
        return logits_of(model, x_NCHW, role=role)

    def _perturb(self, victim: nn.Module, x_NCHW: Tensor, dataset: Dataset, seed: int) -> Tensor:
        """Perturbed versions (N, C, H, W) of the seeds: sign-gradient ascent from a uniform start in the ball."""
        logits_NK = logits_of(victim, x_NCHW, role="victim")
        if logits_NK.shape[1] < 2:
            raise UserError("the victim has one class only; ModelDiff compares directions, so it needs at least two")
        if "shift_on_seeds" in self.port:
            return x_NCHW  # The objective does not see the candidate: no step improves it.
        radius, step = (
            default if value is None else value
            for value, default in zip((self.config.epsilon, self.config.step), SIZES[self.config.pairs], strict=True)
        )
        unit_C11 = torch.ones(x_NCHW.shape[1], 1, 1)
        if self.config.pairs == "original":
            # A step in normalised space is a step of std in pixels, channel by channel.
            unit_C11 = torch.tensor(dataset.std_C, dtype=torch.float32).view(-1, 1, 1)
        generator = seeded_generator(seed, "modeldiff/start")
        noise_NCHW = torch.rand(x_NCHW.shape, generator=generator) * 2 - 1
        start_NCHW = x_NCHW + (noise_NCHW * radius * unit_C11).to(x_NCHW.device)
        unit_C11 = unit_C11.to(x_NCHW.device)
        goal_N = logits_NK.argmax(dim=1)
        far_NK = TARGET_SCALE * (logits_NK.mean(dim=0) - logits_NK)

        def objective_of(label_M: Tensor, far_MK: Tensor) -> Callable[[Tensor], Tensor]:
            if self.config.pairs == "default":
                return lambda x: F.cross_entropy(victim(x).float(), label_M, reduction="sum")
            return lambda x: shift_objective(victim(x).float(), far_MK).sum()

        size = samples_per_chunk(victim, x_NCHW, self.config.memory_mb)

        def search(*starts_N: Tensor) -> Tensor:
            parts = zip(*(t.split(size) for t in starts_N), strict=True)
            return torch.cat(
                [
                    linf_pgd(
                        objective_of(label_M, far_MK),
                        x_MCHW,
                        step=step * unit_C11,
                        steps=self.config.steps,
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


def decision_distances(logits_NK: Tensor, other_NK: Tensor) -> Tensor:
    """The decision distance vector (DDV): 1 - cosine of the logits of each pair, float64 CPU (N,), in [0, 2].

    A row of zeros has cosine 0 with everything (ModelDiff, section 4.3).
    """
    a_NK, b_NK = logits_NK.cpu().double(), other_NK.cpu().double()
    # One root of the product, not a product of two roots: equal rows then have distance 0 exactly.
    norms_N = ((a_NK * a_NK).sum(dim=1) * (b_NK * b_NK).sum(dim=1)).sqrt()
    cosine_N = torch.where(norms_N > 0, (a_NK * b_NK).sum(dim=1) / norms_N, 0.0)
    return (1 - cosine_N).clamp(0.0, 2.0)


def ddv_similarity(victim_N: Tensor, suspect_N: Tensor) -> float:
    """Cosine of two decision distance vectors, in [0, 1]; 0 if either is all zero (ModelDiff, section 4.4)."""
    return min(max(_cosine(victim_N, suspect_N), 0.0), 1.0)


def ddm_similarity(victim_MK: Tensor, suspect_MK: Tensor) -> float:
    """(cosine + 1) / 2 of two decision distance matrices, in [0, 1]; M inputs, here all 2N of the pairs.

    A decision distance matrix (DDM) holds the Euclidean distances between the logits of all inputs. The authors' code
    prints 1 minus this value.
    """
    matrices = [
        torch.cdist(logits_MK, logits_MK, compute_mode="donot_use_mm_for_euclid_dist").flatten()
        for logits_MK in (victim_MK.cpu().double(), suspect_MK.cpu().double())
    ]
    return (min(max(_cosine(*matrices), -1.0), 1.0) + 1) / 2


def _cosine(a_N: Tensor, b_N: Tensor) -> float:
    norms = ((a_N * a_N).sum() * (b_N * b_N).sum()).sqrt()
    return float((a_N * b_N).sum() / norms) if norms > 0 else 0.0
