"""Dataset Inference: a model that learned from the victim's private images keeps larger margins on them than on others.

Source: Maini, Yaghini, Papernot, "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021, and the
authors' program. Here models are in eval mode, and all suspects see the same images and noise.

Shapes: N images, F features, C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn

from rnet.data.images import Dataset, Part
from rnet.data.pixels import as_pixels
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.dataset_inference.blind_walk import blind_margins
from rnet.defenses.dataset_inference.config import DatasetInferenceConfig
from rnet.defenses.dataset_inference.mingd import mingd_margins
from rnet.defenses.dataset_inference.p_values import SMALLEST_P, draw_samples, harmonic_mean, welch_p_values
from rnet.defenses.dataset_inference.regressor import mixed_rows, regress, scaling, train_regressor
from rnet.defenses.metric import Metric
from rnet.defenses.queries import check_suspect, logits_of, seeded_indices
from rnet.errors import UserError
from rnet.models.access import Access


class DatasetInference(Defense):
    """The p value of "no larger margin on private images"; needs labels, with walk=mingd the weights.

    Tensors: images (uint8), labels, regressor and its scaling.

    A small p speaks for a derived model, so it is a distance. The victim's own p is not 0 but close to it if the victim
    overfits at all; it stands in the fingerprint's metadata as victim_p_value, to be looked at before any suspect. Both
    metrics are the same number. Verdicts calibrated on negatives should use log10_p_value: p values spread over orders
    of magnitude, so that a bound from their mean and deviation lies below 0. Its `perfect` is the paper's level, .01.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="log10_p_value",
            direction="distance",
            low=math.log10(SMALLEST_P),
            high=0.0,
            access="labels",
            perfect=-2.0,
            scale="linear",
        ),
        Metric(name="p_value", direction="distance", low=0.0, high=1.0, access="labels"),
    )
    config: DatasetInferenceConfig

    def access(self, metric: Metric) -> Access:
        """MinGD follows the suspect's gradients."""
        return "white_box" if self.config.walk == "mingd" else metric.access

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Trains the regressor on the victim's margins, and keeps other images for suspects.

        Raises UserError when the dataset has too few training or test images.
        """
        learned, mixed = self.config.num_regressor_images, self.config.rows == "notebook"
        private_NCHW, private_N = self._draw_images(dataset, "train", dataset.train, seed)
        public_NCHW, public_N = self._draw_images(dataset, "test", dataset.test, seed)
        # A row of the notebook holds images of both halves, so all must be walked.
        walked = len(private_NCHW) if mixed else learned
        margins_NF = [
            self.margins(victim, x_NCHW[:walked], label_N[:walked], seed, f"regressor/{kind}", role="victim")
            for kind, x_NCHW, label_N in (("train", private_NCHW, private_N), ("test", public_NCHW, public_N))
        ]
        mean_F, std_F = scaling(margins_NF[0])
        tensors = train_regressor(
            *(self._rows((margins - mean_F) / std_F)[:learned] for margins in margins_NF),
            hidden_size=self.config.hidden_size,
            learning_rate=self.config.learning_rate,
            steps=self.config.regressor_steps,
            seed=seed,
        )
        first = 0 if mixed else learned
        tensors |= {
            "mean_F": mean_F,
            "std_F": std_F,
            "private_NCHW": private_NCHW[first:].clone(),
            "private_N": private_N[first:].clone(),
            "public_NCHW": public_NCHW[first:].clone(),
            "public_N": public_N[first:].clone(),
        }
        fingerprint = Fingerprint.of(
            self, dataset, seed, tensors,
            num_classes=logits_of(victim, as_pixels(private_NCHW[:1]), role="victim").shape[1],
            num_regressor_images=learned, num_suspect_images=self.config.num_suspect_images,
        )  # fmt: skip
        fingerprint.metadata["victim_p_value"] = self.verify(fingerprint, victim)["p_value"]
        return fingerprint

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """p_value in (0, 1], the harmonic mean p of one-sided Welch tests, and log10_p_value; low for a derived model.

        Raises UserError for another number of classes and for logits that are not finite.
        """
        tensors, seed = fingerprint.tensors, int(fingerprint.metadata["seed"])
        check_suspect(fingerprint, logits_of(suspect, as_pixels(tensors["private_NCHW"][:1])))
        confidence = []
        for kind, name in (("train", "private"), ("test", "public")):
            margins_NF = self.margins(suspect, tensors[f"{name}_NCHW"], tensors[f"{name}_N"], seed, f"suspect/{kind}")
            rows_NF = self._rows((margins_NF - tensors["mean_F"]) / tensors["std_F"])
            confidence.append(regress(tensors, rows_NF[-self.config.num_suspect_images :]).numpy())
        samples = draw_samples(confidence[0], confidence[1], self.config.sample_size, self.config.num_draws, seed)
        p_value = harmonic_mean(welch_p_values(*samples))
        return {"log10_p_value": math.log10(p_value), "p_value": p_value}

    def margins(
        self, model: nn.Module, images_NCHW: Tensor, label_N: Tensor, seed: int, purpose: str, *, role: str = "suspect"
    ) -> Tensor:
        """Float64 (N, F) features of uint8 images on the CPU: lengths of the configured walks, by norm linf, l2, l1."""
        if self.config.walk == "mingd":
            return mingd_margins(self.config, model, images_NCHW, role=role)
        return blind_margins(self.config, model, images_NCHW, label_N, seed, purpose, role=role)

    def _rows(self, margins_NF: Tensor) -> Tensor:
        return mixed_rows(margins_NF) if self.config.rows == "notebook" else margins_NF

    def _draw_images(self, dataset: Dataset, name: str, part: Part, seed: int) -> tuple[Tensor, Tensor]:
        """uint8 images and labels on the CPU: the regressor's first, then the suspects'."""
        count = self.config.num_regressor_images + self.config.num_suspect_images
        if len(part) < count:
            raise UserError(
                f"defense.num_regressor_images + defense.num_suspect_images = {count} needs as many {name} images, but "
                f"dataset {dataset.name} has {len(part)}; lower them"
            )
        indices_N = seeded_indices(len(part), count, seed, f"dataset_inference/{name}")
        return part.fetch(indices_N).cpu(), part.labels_N[indices_N]
