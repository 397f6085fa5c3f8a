"""What every dataset becomes: labelled uint8 images, split into disjoint victim-training, substitute and test parts.

Shapes: N images, C channels, H height, W width. Models take float pixels in [0, 1]; they normalise inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rnet.data.pixels import as_pixels
from rnet.data.views import Views


class ImageSource(Protocol):
    """Images addressed by position. In memory a tensor does; larger sets decode on demand (see folder.py)."""

    def __len__(self) -> int: ...

    def fetch(self, positions_B: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) at int64 CPU positions, on whatever device the source lives."""
        ...

    def views_of(self, positions_B: Tensor, draws_BD: Tensor, views: Views) -> Iterator[Tensor]:
        """uint8 (C, H, W), of any strides: a random view of each image. draws_BD: float32, on the CPU."""
        ...

    def fits(self, count: int) -> bool:
        """Whether so many of its images may be kept in memory."""
        ...


@dataclass(frozen=True, eq=False)
class TensorSource:
    """Images that fit in memory, kept on one device. images_NCHW: uint8.

    pixel_digests: where they come from image files, of each image before it was fitted in size. files: the image files
    themselves, from which views are made, so that they do not depend on what fits in memory. damaged: positions of
    files that cannot be read, whose images are black.
    """

    images_NCHW: Tensor
    pixel_digests: Sequence[str] | None = None
    files: ImageSource | None = None
    damaged: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def fetch(self, positions_B: Tensor) -> Tensor:
        return self.images_NCHW[positions_B.to(self.images_NCHW.device, non_blocking=True)]

    def fits(self, count: int) -> bool:
        return True

    def views_of(self, positions_B: Tensor, draws_BD: Tensor, views: Views) -> Iterator[Tensor]:
        for image_CHW, draws_D in zip(self.fetch(positions_B), draws_BD.tolist(), strict=True):
            yield views.of(image_CHW, image_CHW.shape[-1], draws_D)


@dataclass(frozen=True, eq=False, kw_only=True)
class RawImages:
    """What a loader returns: every labelled image there is, before any split.

    train_labels_N, test_labels_N: int64 CPU, one per image of the source. test: the official test images, or None
    where there are none and a seeded permutation decides. flip: the natural answer to DatasetConfig.flip. class_names:
    by class, where they are known. train_groups, test_groups: one for each image, or None; images of a group never lie
    in two parts. grouped_by: what a group is, in one word.
    """

    train: ImageSource
    train_labels_N: Tensor
    test: ImageSource | None = None
    test_labels_N: Tensor | None = None
    num_classes: int
    flip: bool
    class_names: tuple[str, ...] = ()
    train_groups: Sequence[str] | None = None
    test_groups: Sequence[str] | None = None
    grouped_by: str = "group"


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """One disjoint part of a dataset: a view of a source.

    source: the images. positions_N: int64 CPU positions of this part's images in the source.
    labels_N: int64 CPU class of each image of this part (position i of the part, not of the source).
    """

    source: ImageSource
    positions_N: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.positions_N)

    def fetch(self, indices_B: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) at int64 CPU indices into this part."""
        return self.source.fetch(self.positions_N[indices_B])

    def views_of(self, indices_B: Tensor, draws_BD: Tensor, views: Views) -> Iterator[Tensor]:
        """uint8 (C, H, W), of any strides: a random view of each image, for draws_BD of the CPU."""
        return self.source.views_of(self.positions_N[indices_B], draws_BD, views)

    def subset(self, indices_M: Tensor) -> Part:
        """The part made of the given indices of this part, in that order."""
        return Part(source=self.source, positions_N=self.positions_N[indices_M], labels_N=self.labels_N[indices_M])

    def to(self, device: torch.device | str) -> Part:
        """The part with its own images, and no others, on the device; image files stay files unless the part fits."""
        if isinstance(self.source, TensorSource):
            if self.source.images_NCHW.device == torch.device(device):
                return self
        elif not self.source.fits(len(self)):
            return self
        images_NCHW = self.source.fetch(self.positions_N).to(device)
        return Part(source=TensorSource(images_NCHW), positions_N=torch.arange(len(self)), labels_N=self.labels_N)

    def views_source(self) -> Part:
        """The part of which random views are made: of the files themselves where there are any."""
        if isinstance(self.source, TensorSource) and self.source.files is not None:
            return Part(source=self.source.files, positions_N=self.positions_N, labels_N=self.labels_N)
        return self

    def pixels(self, indices_B: Tensor | None = None, device: torch.device | str = "cpu") -> Tensor:
        """Float32 pixels in [0, 1], shape (B, C, H, W); all images of the part when no indices are given."""
        indices = torch.arange(len(self)) if indices_B is None else indices_B
        return as_pixels(self.fetch(indices).to(device))


def oversampled(part: Part) -> Part:
    """The part, followed by images of rare classes again and again, until every class has as many as the largest.

    A class's images come in turn, so that their numbers differ by one at most. Classes without images stay so.
    """
    counts_K = torch.bincount(part.labels_N) if len(part) else torch.zeros(0, dtype=torch.int64)
    largest = int(counts_K.max()) if len(part) else 0
    more = [torch.arange(len(part))]
    for label, count in enumerate(counts_K.tolist()):
        members = (part.labels_N == label).nonzero()[:, 0]
        if count:
            more.append(members.repeat(-(-largest // count))[count:largest])
    return part.subset(torch.cat(more))


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A dataset ready for use. `train` trains victims, `substitute` is the attacker's pool, `test` measures.

    The three parts share no image. mean_C and std_C are over [0, 1] pixels. `flip`: whether a mirrored image is still a
    natural image of its class (False for digits and traffic signs). class_names: by class; empty where unknown.
    balance: dataset.balance, which victims are trained with (see labelled_part).
    """

    name: str
    num_classes: int
    channels: int
    image_size: int
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    flip: bool
    train: Part
    substitute: Part
    test: Part
    class_names: tuple[str, ...] = ()
    balance: str = "none"

    def labelled_part(self, part: Part) -> Part:
        """What a classifier is trained on, of the given images: with dataset.balance, rare classes repeated."""
        return oversampled(part) if self.balance == "oversample" else part

    @property
    def blueprint(self) -> dict[str, Any]:
        """What a model must fit, as build_model's arguments say it."""
        return {name: getattr(self, name) for name in ("num_classes", "channels", "image_size", "mean_C", "std_C")}
