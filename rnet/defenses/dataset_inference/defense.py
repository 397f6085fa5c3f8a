"""Dataset Inference: a model that learned from the victim's private images keeps larger margins on them than on others.

Source: Maini, Yaghini, Papernot, "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021, the Blind
Walk (labels only), and the authors' program. Here models are in eval mode, and all suspects see the same images and
noise.

Shapes: N images, D directions per norm, W walks (an image, a norm, a direction), M multiples tried at once, C channels,
H height, W width of an image, R draws of the test, S images in a draw.
"""

from __future__ import annotations

import math
import warnings
from typing import ClassVar

import numpy as np
import torch
from scipy.stats import hmean, ttest_ind
from torch import Tensor, nn

from rnet.data.images import Dataset, Part
from rnet.data.pixels import as_pixels
from rnet.defenses.base import Defense, Fingerprint
from rnet.defenses.dataset_inference.config import DatasetInferenceConfig
from rnet.defenses.metric import Metric
from rnet.defenses.queries import (
    check_suspect,
    logits_of,
    quick_copy,
    samples_per_chunk,
    seeded_generator,
    seeded_indices,
)
from rnet.draws import uniform
from rnet.errors import UserError
from rnet.rewrites.modes import device_of

NORMS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
MULTIPLES_AT_ONCE = 5  # a flip is looked for in so many multiples with one forward pass
SMALLEST_P = float(np.finfo(np.float64).tiny)


class DatasetInference(Defense):
    """The p value of "no larger margin on private images"; needs labels.

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
        ),
        Metric(name="p_value", direction="distance", low=0.0, high=1.0, access="labels"),
    )
    config: DatasetInferenceConfig

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Trains the regressor on the victim's margins, and keeps other images for suspects.

        Raises UserError when the dataset has too few training or test images.
        """
        learned = self.config.num_regressor_images
        private_NCHW, private_N = self._draw_images(dataset, "train", dataset.train, seed)
        public_NCHW, public_N = self._draw_images(dataset, "test", dataset.test, seed)
        margins_NF = [
            self.margins(victim, x_NCHW[:learned], label_N[:learned], seed, f"regressor/{kind}", role="victim")
            for kind, x_NCHW, label_N in (("train", private_NCHW, private_N), ("test", public_NCHW, public_N))
        ]
        mean_F, std_F = scaling(margins_NF[0], self.config.num_directions)
        tensors = train_regressor(
            *((margins - mean_F) / std_F for margins in margins_NF),
            hidden_size=self.config.hidden_size,
            learning_rate=self.config.learning_rate,
            steps=self.config.regressor_steps,
            seed=seed,
        )
        tensors |= {
            "mean_F": mean_F,
            "std_F": std_F,
            "private_NCHW": private_NCHW[learned:].clone(),
            "private_N": private_N[learned:].clone(),
            "public_NCHW": public_NCHW[learned:].clone(),
            "public_N": public_N[learned:].clone(),
        }
        fingerprint = Fingerprint.of(
            self, dataset, seed, tensors,
            num_classes=logits_of(victim, pixels(private_NCHW[:1]), role="victim").shape[1],
            num_regressor_images=learned, num_suspect_images=self.config.num_suspect_images,
        )  # fmt: skip
        fingerprint.metadata["victim_p_value"] = self.verify(fingerprint, victim)["p_value"]
        return fingerprint

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """p_value in (0, 1], the harmonic mean p of one-sided Welch tests, and log10_p_value; low for a derived model.

        Raises UserError for another number of classes and for logits that are not finite.
        """
        tensors, seed = fingerprint.tensors, int(fingerprint.metadata["seed"])
        check_suspect(fingerprint, logits_of(suspect, pixels(tensors["private_NCHW"][:1])))
        confidence = []
        for kind, name in (("train", "private"), ("test", "public")):
            margins_NF = self.margins(suspect, tensors[f"{name}_NCHW"], tensors[f"{name}_N"], seed, f"suspect/{kind}")
            confidence.append(regress(tensors, (margins_NF - tensors["mean_F"]) / tensors["std_F"]).numpy())
        samples = draw_samples(confidence[0], confidence[1], self.config.sample_size, self.config.num_draws, seed)
        p_value = harmonic_mean(welch_p_values(*samples))
        return {"log10_p_value": math.log10(p_value), "p_value": p_value}

    def margins(
        self, model: nn.Module, images_NCHW: Tensor, label_N: Tensor, seed: int, purpose: str, *, role: str = "suspect"
    ) -> Tensor:
        """How far a model's label holds out: float64 (N, 3 * D), linf walks first, then l2, then l1; on the CPU.

        images_NCHW: uint8. A walk goes delta, 2 delta, 3 delta ... from the image, clamped to [0, 1], until the model's
        label is not label_N any more, or max_multiple is reached; its feature is the norm of the clamped delta there.
        An image the model gets wrong from the start stops at the first step. All walks of a chunk of images are one
        batch.
        """
        config, device = self.config, device_of(model)
        batch_size = samples_per_chunk(model, pixels(images_NCHW[:1]), config.memory_mb)
        walked = quick_copy(model)
        walk_bytes = 4 * images_NCHW[0].numel() * (2 * MULTIPLES_AT_ONCE + 6)
        images = max(1, int(config.memory_mb * 2**20 // (walk_bytes * 3 * config.num_directions)))
        rows = []
        for indices_B in torch.arange(len(images_NCHW)).split(images):
            x_BCHW = pixels(images_NCHW[indices_B], device)
            delta_BDCHW = self.directions(x_BCHW, indices_B, seed, purpose)
            walks = delta_BDCHW.shape[1]
            x_WCHW = x_BCHW.repeat_interleave(walks, dim=0)
            label_W = label_N[indices_B].to(device).repeat_interleave(walks)
            delta_WCHW = delta_BDCHW.flatten(0, 1)
            stop_W = last_multiples(walked, x_WCHW, label_W, delta_WCHW, config.max_multiple, batch_size, role)
            moved_WCHW = stop_W[:, None, None, None] * delta_WCHW
            clamped_WCHW = torch.minimum(torch.maximum(moved_WCHW, -x_WCHW), 1 - x_WCHW)
            by_norm_B3DE = clamped_WCHW.double().view(len(x_BCHW), len(NORMS), config.num_directions, -1)
            sizes = [torch.linalg.vector_norm(by_norm_B3DE[:, i], order, -1) for i, order in enumerate(NORMS.values())]
            rows.append(torch.cat(sizes, dim=1))
        return torch.cat(rows).cpu()

    def directions(self, x_BCHW: Tensor, indices_B: Tensor, seed: int, purpose: str) -> Tensor:
        """Noise (B, 3 * D, C, H, W) for the images with these indices: uniform, then normal, then Laplace."""
        config, size = self.config, x_BCHW[0].numel()
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


def pixels(images_NCHW: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Float32 pixels in [0, 1] of uint8 images."""
    return as_pixels(images_NCHW.to(device))


def last_multiples(
    model: nn.Module,
    x_WCHW: Tensor,
    label_W: Tensor,
    delta_WCHW: Tensor,
    max_multiple: int,
    batch_size: int,
    role: str,
) -> Tensor:
    """The first multiple 1, 2, ... of each delta at which the model's label is not label_W, else max_multiple; (W,)."""
    stop_W = torch.full_like(label_W, max_multiple)
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


def scaling(margins_NF: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each norm's margins, repeated to (F,) = (3 * directions,).

    Directions of one norm are alike, so they are pooled, as the authors do. Margins that never vary are not rescaled.
    """
    std_3, mean_3 = torch.std_mean(margins_NF.view(len(margins_NF), len(NORMS), directions), dim=(0, 2))
    std_3 = torch.where(std_3 > 0, std_3, 1.0)
    return mean_3.repeat_interleave(directions), std_3.repeat_interleave(directions)


def train_regressor(
    private_NF: Tensor, public_NF: Tensor, *, hidden_size: int, learning_rate: float, steps: int, seed: int
) -> dict[str, Tensor]:
    """Weights, float64, of tanh(linear(relu(linear(f)))), trained to be high on private and low on public features.

    Full-batch gradient descent on minus the mean of +-output (the authors' loss). Uniform start of +-1/sqrt(inputs).
    """
    generator = seeded_generator(seed, "dataset_inference/regressor")

    def start(*shape: int, inputs: int) -> Tensor:
        draws = torch.rand(shape, generator=generator, dtype=torch.float64)
        return ((2 * draws - 1) / inputs**0.5).requires_grad_(True)

    inputs = private_NF.shape[1]
    weights = {
        "hidden_weight": start(hidden_size, inputs, inputs=inputs),
        "hidden_bias": start(hidden_size, inputs=inputs),
        "output_weight": start(1, hidden_size, inputs=hidden_size),
        "output_bias": start(1, inputs=hidden_size),
    }
    optimizer = torch.optim.SGD(weights.values(), lr=learning_rate)
    features = torch.cat([private_NF, public_NF])
    sign_N = torch.cat([torch.ones(len(private_NF)), -torch.ones(len(public_NF))]).double()
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            (-(sign_N * regress(weights, features)).mean()).backward()
            optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def regress(weights: dict[str, Tensor], features_NF: Tensor) -> Tensor:
    """The regressor's confidence in [-1, 1] that each image was private, (N,)."""
    hidden = torch.relu(features_NF @ weights["hidden_weight"].T + weights["hidden_bias"])
    return torch.tanh(hidden @ weights["output_weight"].T + weights["output_bias"]).squeeze(1)


def draw_samples(
    private_N: np.ndarray, public_N: np.ndarray, size: int, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both (R, S): `draws` samples of `size` images without replacement, drawn apart for private and public images."""
    samples = []
    for name, values_N in (("private", private_N), ("public", public_N)):
        generator = seeded_generator(seed, f"dataset_inference/{name}")
        order_RN = torch.rand(draws, len(values_N), generator=generator).argsort(dim=1)
        samples.append(values_N[order_RN[:, :size].numpy()])
    return samples[0], samples[1]


def welch_p_values(private_RS: np.ndarray, public_RS: np.ndarray) -> np.ndarray:
    """One-sided p value of each row for "the private mean is not larger", unequal variances (Welch 1947); (R,).

    Where neither sample varies there is no t: p is 0, 1/2 or 1 as the private mean is larger, equal or smaller.
    """
    gap_R = private_RS.mean(axis=1) - public_RS.mean(axis=1)
    constant_R = (private_RS.var(axis=1) == 0) & (public_RS.var(axis=1) == 0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a t, which are replaced
        p_R = ttest_ind(private_RS, public_RS, axis=1, equal_var=False, alternative="greater").pvalue
    return np.where(constant_R, 0.5 - 0.5 * np.sign(gap_R), p_R)


def harmonic_mean(p_R: np.ndarray) -> float:
    """The harmonic mean p (Wilson 2019); p values below the smallest normal number count as that."""
    return min(1.0, float(hmean(np.maximum(p_R, SMALLEST_P))))
