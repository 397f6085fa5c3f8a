"""ModelDiff: pairs of similar inputs, and how alike two models are in how far apart they place each pair.

Source: Li, Zhang, Liu, Yang, Liu, Chen, "ModelDiff: Testing-Based DNN Similarity Comparison for Model Reuse
Detection", ISSTA 2021, and the authors' programs. Here the inputs are pixels in [0, 1], depend on the victim only and
are shared by all suspects.

Shapes: N pairs, C channels, H height, W width, K classes. A pair is a seed image and its perturbed version.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.metric import Metric
from rnet.defenses.modeldiff.config import ModelDiffConfig
from rnet.defenses.modeldiff.gradient_pairs import ascended_versions
from rnet.defenses.modeldiff.search import searched_versions
from rnet.defenses.modeldiff.similarity import ddm_similarity, ddv_similarity, decision_distances
from rnet.defenses.queries import check_suspect, logits_of, seeded_indices, train_mode_logits
from rnet.errors import UserError
from rnet.models.access import Access
from rnet.rewrites.modes import device_of, frozen_eval


class ModelDiff(Defense):
    """DDV and DDM similarity; needs logits.

    Tensors: seeds_NCHW, perturbed_NCHW and the victim's logits_seeds_NK, _perturbed_NK.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="ddv", direction="similarity", low=0.0, high=1.0, perfect=1.0),
        Metric(name="ddm", direction="similarity", low=0.0, high=1.0, perfect=1.0),
    )
    config: ModelDiffConfig

    def access(self, metric: Metric) -> Access:
        """Train mode needs the model itself."""
        return "white_box" if self.config.model_mode == "train" else metric.access

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Perturbs images and records the victim's logits on both versions (section 4 of the paper).

        Raises UserError when the dataset has too few images or the victim does not tell any pair apart.
        """
        count, named = self.config.num_pairs, self.config.images
        part = dataset.train if named == "train" else dataset.test
        if len(part) < count:
            raise UserError(
                f"defense.num_pairs={count} needs as many {named} images, but dataset {dataset.name} has "
                f"{len(part)}; lower defense.num_pairs"
            )
        seeds_NCHW = part.pixels(seeded_indices(len(part), count, seed, "modeldiff/images"), device_of(victim))
        logits_NK = logits_of(victim, seeds_NCHW, role="victim")
        if logits_NK.shape[1] < 2:
            raise UserError("the victim has one class only; ModelDiff compares directions, so it needs at least two")
        perturb = searched_versions if self.config.pairs == "search" else ascended_versions
        with frozen_eval(victim):
            perturbed_NCHW = perturb(self.config, victim, seeds_NCHW, logits_NK, dataset, seed)
        if self.config.partners == "halves":
            seeds_NCHW, perturbed_NCHW = perturbed_NCHW.chunk(2)
        seeds_NCHW, perturbed_NCHW = (
            t.cpu().clone(memory_format=torch.contiguous_format) for t in (seeds_NCHW, perturbed_NCHW)
        )
        logits_seeds_NK = self._logits(victim, seeds_NCHW, seed, "victim").cpu()
        logits_perturbed_NK = self._logits(victim, perturbed_NCHW, seed, "victim").cpu()
        distances_N = decision_distances(logits_seeds_NK, logits_perturbed_NK)
        if not distances_N.any():
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
        return {"ddv": ddv, "ddm": ddm}

    def _logits(self, model: nn.Module, x_NCHW: Tensor, seed: int, role: str) -> Tensor:
        if self.config.model_mode == "train":
            return train_mode_logits(model, x_NCHW, seed=seed, role=role)
        return logits_of(model, x_NCHW, role=role)
