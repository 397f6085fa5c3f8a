"""A victim's data set with other images for the attacker: its own training images, or those of another data set.

Labels are of no use to an attacker who asks the victim; of another data set they stay, for the attacks that group by
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rnet.config.component import ComponentConfig
from rnet.data.config import DatasetConfig
from rnet.data.duplicates import pixel_keys
from rnet.data.files.digest import look_at
from rnet.data.images import Dataset, ImageSource, Part, TensorSource
from rnet.data.loading import load_dataset
from rnet.data.substitute.config import OwnConfig, VictimTrainConfig, about_substitutes, as_substitute
from rnet.data.substitute.registry import SUBSTITUTES
from rnet.data.views import Views
from rnet.errors import UserError

UNKNOWN = -1
"""The label of an image of which nobody knows one."""

Choice = Callable[[Dataset], Part]


@dataclass(frozen=True, eq=False)
class Repeated:
    """Gray images as a network for colours takes them: the one channel several times."""

    source: ImageSource
    channels: int

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, positions_B: torch.Tensor) -> torch.Tensor:
        return self.source.fetch(positions_B).repeat(1, self.channels, 1, 1)

    def views_of(self, positions_B: torch.Tensor, draws_BD: torch.Tensor, views: Views) -> Iterator[torch.Tensor]:
        return (view.repeat(self.channels, 1, 1) for view in self.source.views_of(positions_B, draws_BD, views))

    def fits(self, count: int) -> bool:
        return self.source.fits(self.channels * count)


def own_pool(config: OwnConfig) -> Choice:
    """The images that the victim's data set reserves for the attacker."""
    return lambda dataset: dataset.substitute


def victim_training(config: VictimTrainConfig) -> Choice:
    """The victim's training images, their labels forgotten."""
    return lambda dataset: replace(dataset.train, labels_N=torch.full_like(dataset.train.labels_N, UNKNOWN))


def with_substitutes(dataset: Dataset, config: ComponentConfig) -> Dataset:
    """The victim's data set with the attacker's images as its substitute part.

    Of another data set those are all its training images, its pool among them, at the victim's size and with its
    channels. Raises UserError, about substitute.*, for what cannot be read or converted.
    """
    if isinstance(config, DatasetConfig):
        with about_substitutes():
            return replace(dataset, substitute=_of_another(dataset, config))
    choose: Choice = SUBSTITUTES.build(config)
    return replace(dataset, substitute=choose(dataset))


def in_words(dataset: Dataset, config: ComponentConfig) -> str:
    """What the attacker's images are. dataset: as with_substitutes returned it."""
    count = f"{len(dataset.substitute):,}"
    if isinstance(config, VictimTrainConfig):
        return f"the attacker has the victim's own {count} training images, without labels"
    if not isinstance(config, DatasetConfig):
        return f"the attacker has {count} images of {dataset.name} that the victim has not seen"
    channels = "as gray" if dataset.channels == 1 else f"in {dataset.channels} channels"
    return (
        f"the attacker has {count} images of {config.name}, resized to {dataset.image_size} pixels, {channels}; "
        "their labels are not used"
    )


def shared_images(dataset: Dataset) -> dict[str, int] | None:
    """How many substitutes are equal to one of the victim's training images and of its test images, pixel by pixel.

    Files are compared as they were decoded, images in memory as the victim sees them. None where that takes reading
    files again. dataset: as with_substitutes returned it.
    """
    found = {}
    for name, part in (("equal_to_training", dataset.train), ("equal_to_test", dataset.test)):
        keys = _comparable(dataset.substitute, part)
        if keys is None:
            return None
        known = {*keys[1]}
        found[name] = sum(key in known for key in keys[0])
    return found


def _comparable(a: Part, b: Part) -> tuple[Sequence[Any], Sequence[Any]] | None:
    """One key an image of both parts, equal for equal images."""
    sources = (a.source, b.source)
    digests = [getattr(source, "pixel_digests", None) for source in sources]
    in_memory = [TensorSource(source.images_NCHW) for source in sources if isinstance(source, TensorSource)]
    keys: list[Any] = digests if all(digests) else [pixel_keys(source) for source in in_memory]
    if len(keys) < len(sources):
        return None
    first, second = ([own[i] for i in part.positions_N.tolist()] for own, part in zip(keys, (a, b), strict=True))
    return first, second


_latest: dict[str, Dataset] = {}


def _of_another(dataset: Dataset, config: DatasetConfig) -> Part:
    wanted = as_substitute(config, image_size=dataset.image_size, grayscale=dataset.channels == 1)
    look = look_at(wanted)
    key = f"{wanted} {look and look.sha256}"  # as load_dataset_once keeps the victim's
    if key not in _latest:
        loaded = load_dataset(wanted)
        _latest.clear()
        _latest[key] = loaded
    return _fitted(_latest[key], dataset.channels, config.name)


def _fitted(other: Dataset, channels: int, name: str) -> Part:
    """All images of the other set but those it tests with, with so many channels, in the order of its files."""
    train, pool = other.train, other.substitute
    source = train.source
    if other.channels == 1 and channels > 1:
        source = _repeated(source, channels)
    elif other.channels != channels:
        raise UserError(
            f"dataset={name} has images of {other.channels} channels, which do not become the {channels} that the "
            "victim takes; choose another data set"
        )
    positions_N, order_N = torch.cat([train.positions_N, pool.positions_N]).sort()
    return Part(source=source, positions_N=positions_N, labels_N=torch.cat([train.labels_N, pool.labels_N])[order_N])


def _repeated(source: ImageSource, channels: int) -> ImageSource:
    if isinstance(source, TensorSource):
        return TensorSource(source.images_NCHW.expand(-1, channels, -1, -1), source.pixel_digests)
    return Repeated(source, channels)
