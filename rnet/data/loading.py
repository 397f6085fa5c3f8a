"""From a configuration to a dataset: what its loader returns, fitted in size and channels, in three disjoint parts.

dataset = load_dataset(DigitsConfig(image_size=16))
"""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import Tensor

from rnet.data.config import DatasetConfig
from rnet.data.duplicates import connected, groups_of, pixel_keys, say_duplicates
from rnet.data.files.digest import look_at
from rnet.data.files.names import counted
from rnet.data.images import Dataset, ImageSource, Part, RawImages, TensorSource
from rnet.data.registry import DATASETS
from rnet.data.resize import fit_images
from rnet.data.saying import say
from rnet.data.splits import SplitSizes, split_by_groups, split_positions
from rnet.data.statistics import channel_statistics
from rnet.errors import UserError


def load_dataset(config: DatasetConfig) -> Dataset:
    """The dataset in three disjoint parts: a function of the files and the configuration.

    Raises UserError for an unknown name, missing or damaged files, and sizes that exceed what is there.
    """
    config.check()
    _warn_of_settings_without_effect(config)
    return split_dataset(DATASETS.build(config), config)


_latest: dict[str, Dataset] = {}


def load_dataset_once(config: DatasetConfig) -> Dataset:
    """load_dataset for stages that follow one another in a process: the latest one is kept, until its files change."""
    look = look_at(config)
    key = f"{config} {look and look.sha256}"  # by its text: configurations of plugins may hold lists
    if key not in _latest:
        dataset = load_dataset(config)
        _latest.clear()
        _latest[key] = dataset
    return _latest[key]


def split_dataset(raw: RawImages, config: DatasetConfig) -> Dataset:
    """Labelled images in three disjoint parts, at the size and with the channels of the configuration."""
    _check_raw(raw, config)
    train_source = _fitted(raw.train, config)
    test_source = train_source if raw.test is None else _fitted(raw.test, config)
    test_labels_N = raw.train_labels_N if raw.test_labels_N is None else raw.test_labels_N
    copies = _copies(raw)
    sizes = SplitSizes.of(config)
    num_test = None if raw.test is None else len(raw.test)
    if (groups := _groups(raw, copies if config.duplicates == "together" else None)) is not None:
        split = split_by_groups(*groups, num_test, sizes, called=raw.grouped_by if raw.train_groups else "copy")
    else:
        split = split_positions(len(raw.train), num_test, sizes)
    train_N, substitute_N = (without(raw.train, places_N) for places_N in (split.train_N, split.substitute_N))
    test_N = without(raw.train if raw.test is None else raw.test, split.test_N)
    _require_left((split.train_N, train_N), (split.substitute_N, substitute_N), (split.test_N, test_N))
    train = Part(source=train_source, positions_N=train_N, labels_N=raw.train_labels_N[train_N])
    mean_C, std_C = channel_statistics(train, seed=config.split_seed)
    _, channels, height, width = train.fetch(torch.tensor([0])).shape
    assert height == width
    dataset = Dataset(
        name=config.name,
        num_classes=raw.num_classes,
        channels=channels,
        image_size=height,
        mean_C=mean_C,
        std_C=std_C,
        flip=raw.flip if config.flip is None else config.flip,
        train=train,
        substitute=Part(
            source=train_source,
            positions_N=substitute_N,
            labels_N=raw.train_labels_N[substitute_N],
        ),
        test=Part(source=test_source, positions_N=test_N, labels_N=test_labels_N[test_N]),
        class_names=raw.class_names,
        balance=config.balance,
    )
    if split.left_out:
        say(
            f"{counted(split.left_out, 'image')} of {config.name} in no part, as others of their "
            f"{raw.grouped_by if raw.train_groups else 'copies'} are in one"
        )
    if copies is not None:
        say_duplicates(dataset, copies[0], copies[0] if raw.test is None else copies[1])
    return dataset


def without(source: ImageSource, positions_N: Tensor) -> Tensor:
    """The positions but those of files that cannot be read."""
    if not (damaged := getattr(source, "damaged", None)):
        return positions_N
    return positions_N[~torch.isin(positions_N, torch.tensor(sorted(damaged)))]


def _require_left(*parts: tuple[Tensor, Tensor]) -> None:
    """Of each part that has images some can be read. parts: positions before and after, in the order of the names."""
    for name, (before_N, after_N) in zip(("training", "attacker's", "test"), parts, strict=True):
        if len(before_N) and not len(after_N):
            raise UserError(f"none of the {counted(len(before_N), f'{name} image')} can be read; replace them")


def _groups(raw: RawImages, copies: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """Which training and test images stay together: those of one group, and copies. None if all may be apart."""
    if raw.train_groups is None:
        return copies
    names = groups_of(raw.train_groups, raw.test_groups or [])
    if copies is None:
        return names
    together_N = connected(torch.cat(names), torch.cat(copies))
    return together_N[: len(raw.train)], together_N[len(raw.train) :]


def _copies(raw: RawImages) -> tuple[Tensor, Tensor] | None:
    """Which images are equal, as groups_of says it; None where that is not known of all."""
    train, test = pixel_keys(raw.train), [] if raw.test is None else pixel_keys(raw.test)
    return None if train is None or test is None else groups_of(train, test)


def _fitted(source: ImageSource, config: DatasetConfig) -> ImageSource:
    """The source at the configured size and channels; files were already decoded to them."""
    if not isinstance(source, TensorSource) or source.pixel_digests is not None:
        return source
    _, _, height, width = source.images_NCHW.shape
    if config.image_size == 0 and height != width:
        raise UserError(
            f"dataset.image_size=0 keeps the native size, but {config.name} images are {width}x{height}, not square; "
            f"set dataset.image_size={min(height, width)}"
        )
    return TensorSource(
        fit_images(
            source.images_NCHW, config.image_size or height, grayscale=config.grayscale, resize=config.resize,
            interpolation=config.interpolation or "bilinear",
        )
    )  # fmt: skip


def _check_raw(raw: RawImages, config: DatasetConfig) -> None:
    """Refuses what a loader from outside may get wrong."""
    place = f"dataset={config.name}"
    if not isinstance(raw, RawImages):
        raise UserError(f"{place} must return rnet.data.images.RawImages, not a {type(raw).__name__}")
    if (raw.test is None) != (raw.test_labels_N is None):
        raise UserError(f"{place} returns test images without labels, or labels without images; return both or neither")
    for part, source, labels_N in (("train", raw.train, raw.train_labels_N), ("test", raw.test, raw.test_labels_N)):
        if source is None or labels_N is None:
            continue
        groups = raw.train_groups if part == "train" else raw.test_groups
        if groups is not None and len(groups) != len(source):
            raise UserError(f"{place} returns {len(source)} {part} images but {len(groups)} groups; return one each")
        if (groups is None) != (raw.train_groups is None):
            raise UserError(f"{place} returns groups of training or of test images alone; return both or neither")
        if len(source) != len(labels_N):
            raise UserError(f"{place} returns {len(source)} {part} images but {len(labels_N)} labels; return one each")
        if labels_N.min() < 0 or labels_N.max() >= raw.num_classes:
            raise UserError(
                f"{place} returns {part} labels from {int(labels_N.min())} to {int(labels_N.max())}, "
                f"but {raw.num_classes} classes; labels count from 0"
            )
        if isinstance(source, TensorSource) and (source.images_NCHW.dtype, source.images_NCHW.ndim) != (torch.uint8, 4):
            raise UserError(f"{place} must return {part} images as uint8 (N, C, H, W)")


def _warn_of_settings_without_effect(config: DatasetConfig) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for key in config.unused:
        if (value := getattr(config, key)) != defaults[key]:
            warnings.warn(f"dataset.{key}={value!r} has no effect for dataset={config.name}", stacklevel=3)
