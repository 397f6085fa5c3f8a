"""Does an imported network number its classes otherwise than the data set?

Shapes: N images, K classes.
"""

from __future__ import annotations

import json

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rnet.data.files.classes import natural_key
from rnet.data.images import Dataset


def class_names(dataset: Dataset) -> list[str]:
    named = list(dataset.class_names)
    return named if len(named) == dataset.num_classes else [str(number) for number in range(dataset.num_classes)]


def class_map(predicted_N: Tensor, labels_N: Tensor, dataset: Dataset) -> Tensor:
    """The network's class (K,) of each of the data set's, so that most images agree; its own where that is open."""
    classes = dataset.num_classes
    seen_KK = torch.bincount(labels_N * classes + predicted_N, minlength=classes**2).view(classes, classes).double()
    _, theirs = linear_sum_assignment((seen_KK + 0.5 * torch.eye(classes)).numpy(), maximize=True)
    return torch.from_numpy(theirs)


def accuracy_renamed(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Accuracy after the best renaming of classes, of each half of the images by the other half's renaming."""
    predicted_N, classes = logits_NK.argmax(1), logits_NK.shape[1]
    halves = torch.arange(len(labels_N)) % 2 == 0
    right = 0
    for half in (halves, ~halves):
        pairs = labels_N[half] * classes + predicted_N[half]
        seen_KK = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        theirs_K = torch.from_numpy(linear_sum_assignment(seen_KK.numpy(), maximize=True)[1])
        right += int((predicted_N[~half] == theirs_K[labels_N[~half]]).sum())
    return right / max(1, len(labels_N))


def order_remedy(
    theirs_K: Tensor, dataset: Dataset, predicted_N: Tensor, labels_N: Tensor
) -> tuple[str, dict[str, int]]:
    """What to set so that classes are numbered as the network has them, and the map of names to numbers."""
    names = class_names(dataset)
    mapping = {name: int(number) for name, number in zip(names, theirs_K.tolist(), strict=True)}
    mapped = (predicted_N == theirs_K[labels_N]).float().mean()
    for order, key in {"natural": natural_key, "alphabetical": None}.items() if dataset.class_names else ():
        placed = sorted(names, key=key)
        numbers_K = torch.tensor([placed.index(name) for name in names])
        if (predicted_N == numbers_K[labels_N]).float().mean() >= mapped - 0.01:
            return f"set dataset.class_order={order}", mapping
    moved = {name: number for index, (name, number) in enumerate(mapping.items()) if index != number}
    shown = json.dumps(dict(list(moved.items())[:12]), ensure_ascii=True)
    more = f" and {len(moved) - 12} more" if len(moved) > 12 else ""
    where = "check.would_be.class_map of the result"
    return f"set dataset.class_map to a JSON file with the classes' numbers ({where}), {shown}{more}", mapping
