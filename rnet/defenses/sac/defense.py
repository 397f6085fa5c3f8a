"""SAC: how a model's answers to different images resemble each other (Guan et al., "Are You Stealing My Model? Sample
Correlation for Fingerprinting Deep Neural Networks", NeurIPS 2022).

Two models are compared by their n x n matrices of distances between their own answers, never answer by answer; so their
label spaces may differ. Three kinds of inputs: the victim's mistakes (SAC-source in the authors' code), CutMix (SAC-m),
JPEG (SAC-JC).

Shapes: N queries, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from rnet.data.images import Dataset
from rnet.data.pixels import as_pixels
from rnet.defenses.akh.defense import find_mistakes
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.metric import Metric
from rnet.defenses.queries import logits_of, seeded_generator, seeded_indices
from rnet.defenses.sac.config import SAC_INPUTS, SACConfig
from rnet.defenses.sizes import FEWEST_QUERIES
from rnet.errors import UserError


class SAC(Defense):
    """Mean absolute difference of correlation matrices; needs logits.

    Tensors: per kind queries_KIND_NCHW and logits_KIND_NK. The metrics of the kinds that the configuration leaves out
    are missing from the scores. Correlations are those of logits, as the authors' are: those of probabilities or labels
    have other values and cannot be compared with them. (The authors' program has a function for labels of both models,
    which it does not call.)
    """

    metrics: ClassVar[tuple[Metric, ...]] = tuple(
        Metric(name=kind, direction="distance", low=0.0, high=1.0) for kind in SAC_INPUTS
    )
    config: SACConfig

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Makes the inputs of every kind and records the victim's logits on them.

        Raises UserError when there are fewer than 10 inputs of a kind. Metadata says how many there are of each.
        """
        makers: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
            "wrong": lambda: self._wrong(victim, dataset, seed),
            "cutmix": lambda: self._answered(victim, self._cutmix(dataset, seed)),
            "jpeg": lambda: self._answered(victim, self._jpeg(dataset, seed)),
        }
        tensors: dict[str, Tensor] = {}
        for kind in self.config.inputs:
            tensors[f"queries_{kind}_NCHW"], tensors[f"logits_{kind}_NK"] = makers[kind]()
        some = self.config.inputs[0]
        return Fingerprint.of(
            self, dataset, seed, tensors, num_classes=tensors[f"logits_{some}_NK"].shape[1],
            num_queries={kind: len(tensors[f"queries_{kind}_NCHW"]) for kind in self.config.inputs},
            num_queries_asked=self.config.num_queries,
        )  # fmt: skip

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """One distance in [0, 1] for each kind of inputs of the fingerprint. The suspect may have other classes."""
        scores = {}
        for kind in fingerprint.metadata["num_queries"]:
            logits_NK = logits_of(suspect, fingerprint.tensors[f"queries_{kind}_NCHW"], self.config.batch_size)
            scores[kind] = correlation_distance(fingerprint.tensors[f"logits_{kind}_NK"], logits_NK.cpu())
        return scores

    def asked_for(self) -> Sequence[Metric]:
        """Those of the kinds of inputs that are configured."""
        return [metric for metric in self.metrics if metric.name in self.config.inputs]

    def _wrong(self, victim: nn.Module, dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
        mistakes = find_mistakes(victim, dataset, self.config.num_queries, seed, self.config.batch_size)
        if len(mistakes.queries_NCHW) < FEWEST_QUERIES:
            raise UserError(
                f"{mistakes}; SAC needs at least {FEWEST_QUERIES} of them: leave 'wrong' out of defense.inputs"
            )
        return mistakes.queries_NCHW, mistakes.logits_NK

    def _answered(self, victim: nn.Module, queries_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        return queries_NCHW, logits_of(victim, queries_NCHW, self.config.batch_size, role="victim").cpu()

    def _cutmix(self, dataset: Dataset, seed: int) -> Tensor:
        images_NCHW = self._test_images(dataset, seed, "sac/cutmix")
        height, width = images_NCHW.shape[2:]
        generator = seeded_generator(seed, "sac/patch")
        cut = self.config.border == "cut"
        rows, columns = (patch_span(side, self.config.patch, generator, cut=cut) for side in (height, width))
        # The images are in random order, so each takes its patch from a random other one.
        mixed_NCHW = images_NCHW.clone()
        mixed_NCHW[:, :, rows, columns] = images_NCHW.roll(1, dims=0)[:, :, rows, columns]
        return as_pixels(mixed_NCHW)

    def _jpeg(self, dataset: Dataset, seed: int) -> Tensor:
        images_NCHW = self._test_images(dataset, seed, "sac/jpeg")
        return torch.stack([through_jpeg(image_CHW, self.config.jpeg_quality) for image_CHW in images_NCHW])

    def _test_images(self, dataset: Dataset, seed: int, purpose: str) -> Tensor:
        """uint8 test images (N, C, H, W) in random order, on the CPU."""
        count = min(self.config.num_queries, len(dataset.test))
        if count < FEWEST_QUERIES:
            raise UserError(
                f"dataset {dataset.name} has {len(dataset.test)} test images; SAC needs at least {FEWEST_QUERIES}: "
                f"enlarge the test part"
            )
        return dataset.test.fetch(seeded_indices(len(dataset.test), count, seed, purpose)).cpu()


def correlation(logits_NK: Tensor) -> Tensor:
    """Pairwise distances between a model's own answers (N, N), float64 in [0, 1]: (1 - cos) / 2, rows l2-normalised.

    An answer of zeros counts as orthogonal to every answer.
    """
    unit_NK = torch.nn.functional.normalize(logits_NK.double(), dim=1)
    return (1 - unit_NK @ unit_NK.T) / 2


def correlation_distance(victim_NK: Tensor, suspect_NJ: Tensor) -> float:
    """Mean over all n * n pairs of |C_suspect - C_victim|, in [0, 1]; 0 for the victim itself."""
    return float((correlation(suspect_NJ) - correlation(victim_NK)).abs().mean())


def patch_span(side: int, share: float, generator: torch.Generator, *, cut: bool) -> slice:
    """Where the patch lies along one axis of an image: max(1, 2 * (int(share * side) // 2)) pixels near one end.

    As in the authors' code its centre is drawn from the outer sixths of the image, where it hides little. A patch that
    would cross the border is moved inside, or cut there: theirs reaches half its length to both sides of the centre.
    """
    half = int(share * side) // 2
    length = max(1, 2 * half)
    centres = [c for c in range(side) if not side / 6 < c < side * 5 / 6]
    centre = centres[int(torch.randint(len(centres), (1,), generator=generator))]
    if cut and half > 0:
        return slice(max(centre - half, 0), min(centre + half, side))
    start = min(max(centre - half, 0), side - length)
    return slice(start, start + length)


def through_jpeg(image_CHW: Tensor, quality: int) -> Tensor:
    """An image (uint8) after JPEG compression by Pillow: float pixels in [0, 1]. Grey or RGB, else UserError."""
    channels = len(image_CHW)
    if channels not in (1, 3):
        raise UserError(f"JPEG holds grey or RGB images, not {channels} channels: leave 'jpeg' out of defense.inputs")
    array = image_CHW.permute(1, 2, 0).numpy() if channels == 3 else image_CHW[0].numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as image:
        decoded = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    height, width = image_CHW.shape[1:]
    return as_pixels(decoded.view(height, width, channels).permute(2, 0, 1).contiguous())
