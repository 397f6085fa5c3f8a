"""ZEST (Jia et al., ICLR 2022): models are compared by linear (LIME) approximations of them around reference images.

Each image is cut into superpixels; random subsets of them are replaced by the mean colour; a linear map from "which
superpixels are there" to the logits is fitted; the distance between two models is the distance between those maps.

Shapes: N images, C channels, H height, W width, S masks per image, M most segments of any image, K classes, T all
segments of all images, B images of one forward pass, P = ceil(M / 8) bytes of a packed mask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from skimage.segmentation import quickshift
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rnet.data.images import Dataset
from rnet.data.pixels import as_pixels
from rnet.defenses.base import Defense, Fingerprint, Judgement
from rnet.defenses.metric import Metric
from rnet.defenses.queries import logits_of, quick_copy, seeded_generator, train_mode_logits
from rnet.defenses.zest.config import ZestConfig
from rnet.errors import UserError
from rnet.models.access import Access
from rnet.models.black_box import BlackBox
from rnet.rewrites.modes import device_of, frozen_eval

log = logging.getLogger(__name__)

ORDERS = {"l1": 1.0, "l2": 2.0, "linf": float("inf"), "cosine": None}

FEWEST_REFERENCES = 5
"""Fewer distances of independent pairs are no yardstick."""

_PORT_BATCH = 200  # the released port sends the masks of an image to the model 200 at a time, in train mode
_RELATIVE_RANK_CUT = 1e-12  # eigenvalues of D'D below this share of the largest are zero: D has entries 0 and 1


class Zest(Defense):
    """Distances between the models' LIME weights; needs logits. `normalise` gives the paper's relative distance."""

    metrics: ClassVar[tuple[Metric, ...]] = tuple(
        Metric(name=order, direction="distance", low=0.0, high=2.0 if order == "cosine" else float("inf"))
        for order in ORDERS
    )
    config: ZestConfig

    def __init__(self, config: ZestConfig) -> None:
        super().__init__(config)
        self.port = frozenset(config.released_port)

    def access(self, metric: Metric) -> Access:
        """Train mode needs the model itself."""
        return "white_box" if "train_mode_verification" in self.port else metric.access

    def extract(self, victim: nn.Module, dataset: Dataset, seed: int) -> Fingerprint:
        """Segments the reference images, draws the masks and fits the victim.

        Tensors: images_NCHW (uint8), mean_C (float32, what replaces a segment), segments_NHW (int32, the segment of
        each pixel), num_segments_N (int64), masks_NSP (uint8, bit b of byte p: is segment 8p + b there) and the
        victim's weights_TK (float64), its segments in the order of images. Raises UserError for too few images.
        """
        config = self.config
        if len(dataset.train) < config.num_images:
            raise UserError(
                f"defense.num_images={config.num_images} but the training part of dataset {dataset.name} has "
                f"{len(dataset.train)} images; lower it"
            )
        images_NCHW = dataset.train.fetch(torch.arange(config.num_images)).cpu().contiguous()
        segments_NHW, num_segments_N = segment(self._as_segmented(images_NCHW, dataset), config)
        flat = int((num_segments_N < 2).sum())
        if flat:
            log.warning("zest: %d of %d reference images have fewer than 2 segments", flat, config.num_images)
        masks_NSM = draw_masks(num_segments_N, config.num_masks, seeded_generator(seed, "zest/masks"))
        tensors = {
            "images_NCHW": images_NCHW,
            "mean_C": torch.tensor(dataset.mean_C, dtype=torch.float32),
            "segments_NHW": segments_NHW,
            "num_segments_N": num_segments_N,
            "masks_NSP": torch.from_numpy(np.packbits(masks_NSM.numpy(), axis=-1, bitorder="little")),
        }
        tensors["weights_TK"] = self._fit(tensors, masks_NSM, victim, seed, role="victim")
        counts_N = num_segments_N.double()
        segments = {"least": int(counts_N.min()), "median": float(counts_N.quantile(0.5)), "most": int(counts_N.max())}
        return Fingerprint.of(
            self, dataset, seed, tensors, num_classes=tensors["weights_TK"].shape[1], num_images=config.num_images,
            num_masks=config.num_masks, images_below_two_segments=flat, segments_per_image=segments,
        )  # fmt: skip

    def verify(self, fingerprint: Fingerprint, suspect: nn.Module) -> dict[str, float]:
        """Distances l1, l2, linf and cosine (1 - cos) between the victim's stored weights and the suspect's.

        Raises UserError for non-finite logits, and for another number of classes when align="never".
        """
        return self.represent(fingerprint, suspect)[0]

    def represent(self, fingerprint: Fingerprint, suspect: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The distances, and the suspect's weights_TK (float32)."""
        weights_TJ = self.weights(fingerprint, suspect)
        scores = self._distances(fingerprint.tensors["weights_TK"], weights_TJ)
        return scores, {"weights_TK": weights_TJ.float()}

    def between(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
        """The same distances between two suspects, the first in the place of the victim."""
        return self._distances(one["weights_TK"].double(), other["weights_TK"].double())

    def _distances(self, victim_TK: Tensor, suspect_TJ: Tensor) -> dict[str, float]:
        return {metric.name: distance(victim_TK, suspect_TJ, metric.name, self.config.align) for metric in self.metrics}

    def judge(
        self, scores: Mapping[str, float], negatives: Sequence[Mapping[str, float]], false_positive_rate: float
    ) -> Judgement:
        """By prediction bounds; from five negatives on each distance also relative to theirs, as in the paper."""
        found = super().judge(scores, negatives, false_positive_rate)
        if len(negatives) < FEWEST_REFERENCES:
            return found
        return Judgement(
            metrics={
                name: replace(judged, normalised=normalise(scores[name], [other[name] for other in negatives]))
                for name, judged in found.metrics.items()
            }
        )

    def weights(self, fingerprint: Fingerprint, suspect: nn.Module) -> Tensor:
        """A model's LIME weights (T, classes of the model) on a fingerprint's images and masks; float64, on the CPU.

        Two independent models' weights on one fingerprint give a reference distance for `normalise`.
        """
        seed = int(fingerprint.metadata["seed"])
        masks_NSM = unpack_masks(fingerprint)
        if "redraw_masks" in self.port:  # the stored weights stand for the victim's on those masks
            generator = seeded_generator(seed, "zest/masks redrawn")
            masks_NSM = draw_masks(fingerprint.tensors["num_segments_N"], masks_NSM.shape[1], generator)
        return self._fit(fingerprint.tensors, masks_NSM, suspect, seed + 1, role="suspect")

    def _as_segmented(self, images_NCHW: Tensor, dataset: Dataset) -> Tensor:
        """Float64 colours in [0, 255], the scale that quickshift's distances are meant for."""
        x_NCHW = images_NCHW.double() / 255
        if "segment_first_three" in self.port:
            # The port's loop over (mean, std) of the channels runs over the first axis of the batch: image i gets
            # channel i's scalars and images beyond the number of channels stay normalised.
            mean_C11 = torch.tensor(dataset.mean_C, dtype=torch.float64).view(-1, 1, 1)
            std_C11 = torch.tensor(dataset.std_C, dtype=torch.float64).view(-1, 1, 1)
            x_NCHW = (x_NCHW - mean_C11) / std_C11
            for x_CHW, mean, std in zip(x_NCHW, dataset.mean_C, dataset.std_C, strict=False):
                x_CHW.mul_(std).add_(mean)
            x_NCHW = x_NCHW.clamp(0, 1)
        return x_NCHW * 255

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
        in_train_mode = "train_mode_verification" in self.port
        batch = _PORT_BATCH
        if not in_train_mode:
            batch = images_per_forward(model, as_pixels(tensors["images_NCHW"][:1]), self.config.memory_mb)
        for n, masks_SM in enumerate(masks_NSM):
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


def segment(colours_NCHW: Tensor, config: ZestConfig) -> tuple[Tensor, Tensor]:
    """Superpixels by quickshift: the segment 0, 1, ... of each pixel (N, H, W) int32 and their number (N,) int64.

    colours_NCHW: float64 in [0, 255]; grey images are repeated to three channels. Quickshift's tie-breaking noise has
    skimage's fixed seed, so segments depend on the image only. Images are shared among torch's number of threads.
    """
    channels = colours_NCHW.shape[1]
    if channels not in (1, 3):
        raise UserError(f"defense=zest segments colour or grey images, not images of {channels} channels")

    def one(colours_CHW: Tensor) -> Tensor:
        image_HWC = colours_CHW.expand(3, -1, -1).permute(1, 2, 0).numpy()
        segments_HW = quickshift(
            image_HWC, kernel_size=config.kernel_size, max_dist=config.max_dist, ratio=config.ratio, rng=42
        )
        return torch.from_numpy(segments_HW.astype(np.int32))

    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        segments_NHW = torch.stack(list(pool.map(one, colours_NCHW.cpu())))
    return segments_NHW, segments_NHW.flatten(1).amax(dim=1).long() + 1


def draw_masks(num_segments_N: Tensor, num_masks: int, generator: torch.Generator) -> Tensor:
    """Bernoulli(1/2) masks (N, S, M) uint8, 1 where a segment is there; the first of an image is all ones.

    Padding is 0. An image's masks depend on the images before it only.
    """
    masks_NSM = torch.zeros(len(num_segments_N), num_masks, int(num_segments_N.max()), dtype=torch.uint8)
    for masks_SM, count in zip(masks_NSM, num_segments_N.tolist(), strict=True):
        masks_SM[:, :count] = torch.randint(0, 2, (num_masks, count), dtype=torch.uint8, generator=generator)
        masks_SM[0, :count] = 1
    return masks_NSM


def unpack_masks(fingerprint: Fingerprint) -> Tensor:
    """The stored masks (N, S, M) uint8 with entries 0 and 1."""
    most = int(fingerprint.tensors["num_segments_N"].max())
    packed_NSP = fingerprint.tensors["masks_NSP"].numpy()
    return torch.from_numpy(np.unpackbits(packed_NSP, axis=-1, count=most, bitorder="little"))


def masked(x_CHW: Tensor, segments_HW: Tensor, masks_BM: Tensor, mean_C: Tensor) -> Tensor:
    """One image under B masks (B, C, H, W): pixels of absent segments take the mean colour."""
    keep_BHW = masks_BM.bool()[:, segments_HW.long()]
    return torch.where(keep_BHW[:, None], x_CHW, mean_C[:, None, None])


def distance(victim_TK: Tensor, suspect_TJ: Tensor, order: str, align: str = "auto") -> float:
    """Distance of two models' weights: l1, l2, linf, or cosine = 1 - cos of all entries as one vector.

    Where align says so, the classes of the two models are matched first and unmatched ones dropped. Against weights
    that are all zero the cosine distance is 1, or 0 if both are. Raises UserError for different numbers of classes
    under align="never".
    """
    classes_differ = victim_TK.shape[1] != suspect_TJ.shape[1]
    if classes_differ and align == "never":
        raise UserError(
            f"the suspect has {suspect_TJ.shape[1]} classes but the fingerprint's victim has {victim_TK.shape[1]}; "
            f"set defense.align=auto to match classes"
        )
    if align == "always" or classes_differ:
        rows, columns = match_classes(victim_TK, suspect_TJ, order)
        victim_TK, suspect_TJ = victim_TK[:, rows], suspect_TJ[:, columns]
    a, b = victim_TK.flatten(), suspect_TJ.flatten()
    if order != "cosine":
        return float(torch.linalg.vector_norm(a - b, ord=ORDERS[order]))
    norm_a, norm_b = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
    if norm_a == 0 or norm_b == 0:
        return 0.0 if norm_a == norm_b else 1.0
    # |a/|a| - b/|b||^2 / 2 equals 1 - cos and, unlike it, is exact where the two are equal or close
    return float((a / norm_a - b / norm_b).square().sum() / 2)


def match_classes(victim_TK: Tensor, suspect_TJ: Tensor, order: str) -> tuple[list[int], list[int]]:
    """Pairs of classes (of the victim, of the suspect): repeatedly the closest pair of columns still unmatched.

    Closeness is the distance `order` between columns; ties go to the lowest class of the victim, then of the suspect.
    There are min(K, J) pairs.
    """
    p = ORDERS[order]
    if p is None:
        a_KT, b_JT = (torch.nn.functional.normalize(w.T, dim=1) for w in (victim_TK, suspect_TJ))
        distances_KJ = 1 - a_KT @ b_JT.T
    else:
        mode = "donot_use_mm_for_euclid_dist"
        distances_KJ = torch.cdist(victim_TK.T.contiguous(), suspect_TJ.T.contiguous(), p=p, compute_mode=mode)
    table_KJ = distances_KJ.cpu().numpy()
    rows, columns = [], []
    for _ in range(min(table_KJ.shape)):
        row, column = np.unravel_index(table_KJ.argmin(), table_KJ.shape)
        table_KJ[row, :] = np.inf
        table_KJ[:, column] = np.inf
        rows.append(int(row))
        columns.append(int(column))
    return rows, columns


def normalise(value: float, reference_distances: Sequence[float]) -> float:
    """A distance relative to that of unrelated models; below 1 the suspect counts as derived (Jia et al. 2022).

    reference_distances: of independently trained pairs with the architectures and data of victim and suspect, same
    metric. Raises UserError for fewer than 5 of them and when their mean is not a positive number.
    """
    if len(reference_distances) < FEWEST_REFERENCES:
        raise UserError(
            f"{len(reference_distances)} reference distances are too few to normalise by; train at least "
            f"{FEWEST_REFERENCES} independent pairs"
        )
    mean = sum(reference_distances) / len(reference_distances)
    if not 0 < mean < float("inf"):
        raise UserError(f"the mean reference distance is {mean}; the reference pairs must be independently trained")
    return value / mean


class _LargestTensor(TorchDispatchMode):
    """Records the largest storage, in bytes, that operations inside make; `known` storages do not count."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return result


def images_per_forward(model: nn.Module, x_1CHW: Tensor, memory_mb: int) -> int:
    """How many images fit in `memory_mb` MiB in a forward pass without gradient; at least 1.

    Measured: one image goes through the model in eval mode, and four times the largest tensor that it makes (input,
    output, a residual branch, working space) is allowed per image. A black box has a limit of its own.
    """
    if isinstance(model, BlackBox):
        return model.batch_size
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with frozen_eval(model), torch.no_grad():
        x_1CHW = x_1CHW.to(device_of(model))
        with _LargestTensor(known) as largest:
            model(x_1CHW)
    return max(1, memory_mb * 2**20 // max(1, 4 * largest.nbytes, 4 * x_1CHW.nbytes))
