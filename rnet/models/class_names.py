"""What the classes of a model are called: as the user or the publisher of its weights says, or as the data set does.

They travel in the metadata of model.safetensors, so that whoever gets the weights gets the names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from rnet.data.files.classes import read_names
from rnet.data.files.names import shown
from rnet.errors import UserError

IMAGENET_CLASSES = 1000


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1,000 classes of ILSVRC 2012 in the order of their wnids, as torchvision calls them; no two are alike."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The same classes as WordNet numbers them and as ImageNet's folders are called: n01440764, ..."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


def plain_names(names: Sequence[str]) -> list[str]:
    """The names, and for a wnid of ImageNet what people call it."""
    if not any(_is_wnid(name) for name in names):
        return list(names)
    called = dict(zip(imagenet_wnids(), imagenet_names(), strict=True))
    return [called.get(name, name) for name in names]


def given_names(path: str, num_classes: int) -> list[str]:
    """The names in the file of model.classes. Raises UserError unless there is one for each class."""
    names = read_names(path, f"model.classes={path}")
    if len(names) != num_classes:
        raise UserError(
            f"model.classes={path} names {len(names)} classes, but the model has {num_classes}: give the names of the "
            f"classes that it was trained on, and the dataset with these"
        )
    return names


def other_number(names: Sequence[str], others: Sequence[str]) -> tuple[str, int, int] | None:
    """The first name that both have under another number, and its numbers; None where none is. Names that stand twice
    in one say nothing."""
    ours, theirs = (_unique(plain_names(one)) for one in (names, others))
    return next(((name, ours[name], theirs[name]) for name in ours if theirs.get(name, ours[name]) != ours[name]), None)


def shared(names: Sequence[str], others: Sequence[str]) -> int:
    """How many classes are called alike under one number."""
    pairs = zip(plain_names(names), plain_names(others), strict=False)
    return sum(one == other for one, other in pairs)


def require_same_order(names: Sequence[str], dataset_names: Sequence[str], path: str) -> None:
    """Raises UserError where the data set numbers a class of model.classes otherwise."""
    if (found := other_number(names, dataset_names)) is not None:
        name, ours, theirs = found
        raise UserError(
            f"model.classes={path} calls class {ours} {shown(name)}, which is class {theirs} of the dataset: set "
            f"dataset.class_map={path} if the file is right, or take model.classes out"
        )


def listed(names: Sequence[str], most: int = 4) -> str:
    """ "1000: tench, goldfish, great white shark, tiger shark, ..." """
    return f"{len(names)}: {', '.join(names[:most])}{', ...' if len(names) > most else ''}"


def _is_wnid(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()


def _unique(names: Sequence[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: number for number, name in enumerate(names) if counts[name] == 1}
