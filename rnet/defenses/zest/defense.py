"""ZEST (Jia et al., ICLR 2022): models are compared by linear (LIME) approximations of them around reference images.

Each image is cut into superpixels; random subsets of them are replaced by the mean colour; a linear map from "which
superpixels are there" to the logits is fitted; the distance between two models is the distance between those maps.
masking.py makes the masked images, comparing.py has the distances.

Shapes: N images, C channels, H height, W width, S masks per image, M most segments of any image, K classes, T all
segments of all images, B images of one forward pass, P = ceil(M / 8) bytes of a packed mask, R draws of masks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.data.pixels import as_pixels
from rnet.defenses.base import Defense, Fingerprint, Judgement
from rnet.defenses.metric import Metric
from rnet.defenses.negatives import Negatives
from rnet.defenses.queries import logits_of, quick_copy, seeded_generator, seeded_indices, train_mode_logits
from rnet.defenses.zest.batches import images_per_forward
from rnet.defenses.zest.comparing import FEWEST_REFERENCES, ORDERS, distance, normalise
from rnet.defenses.zest.config import ZestConfig
from rnet.defenses.zest.masking import colours_of, draw_masks, masked, pack_masks, segment, unpack_masks
from rnet.errors import UserError
from rnet.models.access import Access
from rnet.rewrites.modes import device_of
from rnet.training.monitor.progress import tell

log = logging.getLogger(__name__)

REDRAWN = 8
"""Draws of masks of which each suspect sees one, where masks are drawn again."""

_TRAIN_MODE_BATCH = 200  # as the released port sends the masks of an image to the model; batch statistics depend on it
_RELATIVE_RANK_CUT = 1e-12  # eigenvalues of D'D below this share of the largest are zero: D has entries 0 and 1


class Zest(Defense):
    """Distances between the models' LIME weights; needs logits. `normalise` gives the paper's relative distance."""

    metrics: ClassVar[tuple[Metric, ...]] = tuple(
        Metric(name=order, direction="distance", low=0.0, high=2.0 if order == "cosine" else float("inf"))
        for order in ORDERS
    )
    config: ZestConfig

    def access(self, metric: Metric) -> Access:
        """Train mode needs the model itself."""
        return "white_box" if self.config.model_mode == "train" else metric.access

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Segments the reference images, draws the masks and fits the victim.

        Tensors: images_NCHW (uint8), mean_C (float32, what replaces a segment), segments_NHW (int32, the segment of
        each pixel), num_segments_N (int64), masks_NSP (uint8, bit b of byte p: is segment 8p + b there) and the
        victim's weights_TK (float64), its segments in the order of images. With masks="redrawn" weights_RTK instead of
        the last two. Raises UserError for too few images.
        """
        config = self.config
        images_NCHW = self._references(dataset, seed)
        segments_NHW, num_segments_N = segment(colours_of(images_NCHW, dataset, config.segmented), config)
        flat = int((num_segments_N < 2).sum())
        if flat:
            log.warning("zest: %d of %d reference images have fewer than 2 segments", flat, config.num_images)
        tensors = {
            "images_NCHW": images_NCHW,
            "mean_C": torch.tensor(dataset.mean_C, dtype=torch.float32),
            "segments_NHW": segments_NHW,
            "num_segments_N": num_segments_N,
        }
        if config.masks == "stored":
            masks_NSM = self._drawn(num_segments_N, seed)
            tensors["masks_NSP"] = pack_masks(masks_NSM)
            tensors["weights_TK"] = self._fit(tensors, masks_NSM, victim, seed, role="victim")
        else:
            fitted = [
                self._fit(tensors, self._drawn(num_segments_N, seed, draw), victim, seed, role="victim")
                for draw in range(REDRAWN)
            ]
            tensors["weights_RTK"] = torch.stack(fitted)
        num_classes = (tensors["weights_TK"] if "weights_TK" in tensors else tensors["weights_RTK"]).shape[-1]
        counts_N = num_segments_N.double()
        segments = {"least": int(counts_N.min()), "median": float(counts_N.quantile(0.5)), "most": int(counts_N.max())}
        return Fingerprint.of(
            self, dataset, seed, tensors, num_classes=num_classes, num_images=config.num_images,
            num_masks=config.num_masks, images_below_two_segments=flat, segments_per_image=segments,
        )  # fmt: skip

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """Distances l1, l2, linf and cosine (1 - cos) between the victim's stored weights and the suspect's.

        Raises UserError for non-finite logits, and for another number of classes when align="never".
        """
        return self.represent(fingerprint, suspect)[0]

    def represent(self, fingerprint: Fingerprint, suspect: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The distances, and the suspect's weights_TK (float32); nothing where suspects see other masks."""
        if "weights_RTK" in fingerprint.tensors:
            draw = self._draw_of(fingerprint, suspect)
            weights_TJ = self.weights(fingerprint, suspect, draw)
            return self._distances(fingerprint.tensors["weights_RTK"][draw], weights_TJ), {}
        weights_TJ = self.weights(fingerprint, suspect)
        return self._distances(fingerprint.tensors["weights_TK"], weights_TJ), {"weights_TK": weights_TJ.float()}

    def between(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
        """The same distances between two suspects, the first in the place of the victim."""
        return self._distances(one["weights_TK"].double(), other["weights_TK"].double())

    def _distances(self, victim_TK: Tensor, suspect_TJ: Tensor) -> dict[str, float]:
        return {metric.name: distance(victim_TK, suspect_TJ, metric.name, self.config.align) for metric in self.metrics}

    def judge(self, scores: Mapping[str, float], negatives: Negatives, false_positive_rate: float) -> Judgement:
        """By rank or prediction bounds; each distance also relative to the mean of independent pairs, as in the paper.

        At least five pairs, which four negatives make. Thresholds rest on the distances between the victim and the
        negatives: those of pairs share members, so that n (n - 1) / 2 of them say less than as many models would, and
        they lack the victim, whose logits have a scale of their own.
        """
        found = super().judge(scores, negatives, false_positive_rate)
        metrics = {}
        for name, judged in found.metrics.items():
            pairs = negatives.of_pairs(name)
            known = len(pairs) >= FEWEST_REFERENCES and fmean(pairs) > 0
            metrics[name] = replace(judged, normalised=normalise(scores[name], pairs) if known else None)
        return replace(found, metrics=metrics)

    def weights(self, fingerprint: Fingerprint, suspect: nn.Module, draw: int | None = None) -> Tensor:
        """A model's LIME weights (T, classes of the model) on a fingerprint's images and masks; float64, on the CPU.

        draw: which of the masks that are drawn again; None are the stored ones. Two independent models' weights on one
        fingerprint give a reference distance for `normalise`.
        """
        seed = int(fingerprint.metadata["seed"])
        if draw is None:
            masks_NSM = unpack_masks(fingerprint)
        else:
            masks_NSM = self._drawn(fingerprint.tensors["num_segments_N"], seed, draw)
        return self._fit(fingerprint.tensors, masks_NSM, suspect, seed, role="suspect")

    def _references(self, dataset: Dataset, seed: int) -> Tensor:
        count, part = self.config.num_images, dataset.test if self.config.images == "test" else dataset.train
        if len(part) < count:
            kind = "test" if self.config.images == "test" else "training"
            raise UserError(
                f"defense.num_images={count} but the {kind} part of dataset {dataset.name} has {len(part)} images; "
                "lower it"
            )
        if self.config.images == "train":
            return part.fetch(torch.arange(count)).cpu().contiguous()
        return part.fetch(seeded_indices(len(part), count, seed, "zest/images")).cpu().contiguous()

    def _drawn(self, num_segments_N: Tensor, seed: int, draw: int | None = None) -> Tensor:
        purpose = "zest/masks" if draw is None else f"zest/masks {draw}"
        return draw_masks(num_segments_N, self.config.num_masks, seeded_generator(seed, purpose))

    def _draw_of(self, fingerprint: Fingerprint, suspect: nn.Module) -> int:
        """Which draw a suspect sees: a function of its labels for the whole images, the same on every device."""
        labels_N = logits_of(suspect, as_pixels(fingerprint.tensors["images_NCHW"])).argmax(dim=1).cpu()
        return hashlib.sha256(labels_N.numpy().tobytes()).digest()[0] % REDRAWN

    def _fit(self, tensors: dict[str, Tensor], masks_NSM: Tensor, model: nn.Module, seed: int, *, role: str) -> Tensor:
        """Least squares of minimum norm, no intercept, no sample weights: (T, K) float64 on the CPU.

        W = pinv(D'D) D'Y. D has entries 0 and 1 and far more rows than columns, so D'D is exact and well conditioned;
        padded columns of D get weight zero.
        """
        device = device_of(model)
        used_NM = torch.arange(masks_NSM.shape[2]) < tensors["num_segments_N"][:, None]
        grams, products = [], []
        for masks_SM, logits_SK in self._answers(tensors, masks_NSM.to(device), model, seed, role):
            design_SM = masks_SM.double()
            grams.append(design_SM.T @ design_SM)
            products.append(design_SM.T @ logits_SK.double())
        inverse_NMM = torch.linalg.pinv(torch.stack(grams).cpu(), rtol=_RELATIVE_RANK_CUT, hermitian=True)
        return (inverse_NMM @ torch.stack(products).cpu())[used_NM].contiguous()

    def _answers(
        self, tensors: dict[str, Tensor], masks_NSM: Tensor, model: nn.Module, seed: int, role: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each image in turn, its masks and the model's logits (S, K) on the masked images."""
        device = masks_NSM.device
        mean_C = tensors["mean_C"].to(device)
        asked = quick_copy(model)
        in_train_mode = self.config.model_mode == "train"
        batch = _TRAIN_MODE_BATCH
        if not in_train_mode:
            batch = images_per_forward(model, as_pixels(tensors["images_NCHW"][:1]), self.config.memory_mb)
        for n, masks_SM in enumerate(masks_NSM):
            tell(n, len(masks_NSM), "images")
            x_CHW = as_pixels(tensors["images_NCHW"][n].to(device))
            segments_HW = tensors["segments_NHW"][n].to(device)
            parts = []
            for b, masks_BM in enumerate(masks_SM.split(batch)):
                x_BCHW = masked(x_CHW, segments_HW, masks_BM, mean_C)
                if in_train_mode:
                    draw = seed * 1_000_003 + n * len(masks_SM) + b  # another dropout draw for every forward pass
                    parts.append(train_mode_logits(model, x_BCHW, batch, seed=draw, role=role))
                else:
                    parts.append(logits_of(asked, x_BCHW, batch, role=role))
            yield masks_SM, torch.cat(parts)
