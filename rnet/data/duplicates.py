"""Equal images, by their decoded pixels at full size: in which parts they are, and under which classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from rnet.data.files.names import counted
from rnet.data.images import Dataset, ImageSource, TensorSource
from rnet.data.saying import say

PARTS = {"train": "victim-training", "substitute": "substitute", "test": "test"}


def pixel_keys(source: ImageSource) -> Sequence[str | bytes] | None:
    """One key an image, equal for equal images; None for a source that does not keep its images."""
    if (digests := getattr(source, "pixel_digests", None)) is not None:
        return digests
    if not isinstance(source, TensorSource):
        return None
    images = source.images_NCHW.cpu().contiguous().numpy()
    return [hashlib.blake2b(image.data, digest_size=12).digest() for image in images]


def groups_of(train: Sequence[str | bytes], test: Sequence[str | bytes]) -> tuple[Tensor, Tensor]:
    """int64 (N,) of the training and of the test images: the position of the first image that is equal to each."""
    numbers: dict[str | bytes, int] = {}
    found = [[numbers.setdefault(key, len(numbers)) for key in keys] for keys in (train, test)]
    return torch.tensor(found[0], dtype=torch.int64), torch.tensor(found[1], dtype=torch.int64)


def connected(*groupings: Tensor) -> Tensor:
    """int64 (N,): equal for images that are equal in one of the groupings, and for those that others connect so.

    groupings: int64 (N,) each, numbers of 0 and above.
    """
    n = len(groupings[0])
    offsets = [n, *(int(one.max()) + 1 if n else 0 for one in groupings)]
    columns = [one.numpy() + sum(offsets[: place + 1]) for place, one in enumerate(groupings)]
    rows = np.tile(np.arange(n), len(groupings))
    edges = coo_array((np.ones(len(rows)), (rows, np.concatenate(columns))), shape=(sum(offsets), sum(offsets)))
    return torch.from_numpy(connected_components(edges, directed=False)[1][:n]).long()


def say_duplicates(dataset: Dataset, train_N: Tensor, test_N: Tensor) -> None:
    """Says how many images are equal to one of another part, or to one of another class.

    train_N, test_N: the group of every image of the sources of the training and of the test images.
    """
    groups = {
        "train": train_N[dataset.train.positions_N],
        "substitute": train_N[dataset.substitute.positions_N],
        "test": test_N[dataset.test.positions_N],
    }
    shared = {
        (a, b): count for a, b in combinations(PARTS, 2) if (count := int(torch.isin(groups[b], groups[a]).sum()))
    }
    if shared:
        counts = ", ".join(f"{count:,} of {PARTS[b]} are in {PARTS[a]} too" for (a, b), count in shared.items())
        say(
            f"different parts of {dataset.name} share images: {counts}; dataset.duplicates=together keeps copies in one"
        )
    labels = torch.cat([getattr(dataset, part).labels_N for part in PARTS])
    keys = torch.cat([groups[part] for part in PARTS])
    pairs = torch.unique(torch.stack([keys, labels], dim=1), dim=0)
    _, classes_a_group = torch.unique_consecutive(pairs[:, 0], return_counts=True)
    if contradictory := int((classes_a_group > 1).sum()):
        say(f"{counted(contradictory, 'image')} of {dataset.name} have copies under different labels")
