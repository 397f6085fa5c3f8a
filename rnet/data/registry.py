"""Named datasets: one configuration, one small loader file per dataset in datasets/, and one way from there to parts.

dataset = load_dataset(DatasetConfig(name="digits", image_size=16))
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rnet.data.config import DatasetConfig
from rnet.data.images import Dataset, ImageSource, Part, TensorSource
from rnet.data.resize import fit_images
from rnet.data.splits import split_positions
from rnet.data.statistics import channel_statistics
from rnet.errors import UserError, unknown_name


@dataclass(frozen=True, eq=False, kw_only=True)
class RawImages:
    """What a loader returns: every labelled image there is, before any split.

    train_labels_N, test_labels_N: int64 CPU, one per image of the source. test: the official test images, or None
    where there are none and a seeded permutation decides. flip: the natural answer to DatasetConfig.flip.
    """

    train: ImageSource
    train_labels_N: Tensor
    test: ImageSource | None = None
    test_labels_N: Tensor | None = None
    num_classes: int
    flip: bool


Loader = Callable[[DatasetConfig], RawImages]

# Settings that only some datasets read; setting one for a dataset that does not is warned about.
_OPTIONAL_SETTINGS = ("folder", "download", "max_memory_mb", "attribute")

_loaders: dict[str, tuple[Loader, frozenset[str]]] = {}


def register_dataset(name: str, *, uses: tuple[str, ...] = ()) -> Callable[[Loader], Loader]:
    """Decorator that makes a loader known as `name`. uses: the optional settings it reads (folder, download, ...)."""
    assert set(uses) <= set(_OPTIONAL_SETTINGS), uses

    def register(loader: Loader) -> Loader:
        assert name not in _loaders, f"two loaders are called {name!r}"
        _loaders[name] = (loader, frozenset(uses))
        return loader

    return register


def dataset_names() -> list[str]:
    """Every registered dataset, sorted."""
    package = importlib.import_module("rnet.data.datasets")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(_loaders)


def load_dataset(config: DatasetConfig) -> Dataset:
    """The dataset in three disjoint parts: a function of the files and the configuration.

    Raises UserError for an unknown name, missing or damaged files, and sizes that exceed what is there.
    """
    if config.name not in dataset_names():
        raise unknown_name("dataset", config.name, _loaders)
    loader, uses = _loaders[config.name]
    _check_values(config)
    _warn_of_settings_without_effect(config, uses)
    raw = loader(config)
    assert len(raw.train) == len(raw.train_labels_N)
    assert (raw.test is None) == (raw.test_labels_N is None)
    train_source = _fitted(raw.train, config)
    test_source = train_source if raw.test is None else _fitted(raw.test, config)
    test_labels_N = raw.train_labels_N if raw.test_labels_N is None else raw.test_labels_N
    split = split_positions(
        len(raw.train),
        None if raw.test is None else len(raw.test),
        substitute_pool=config.substitute_pool,
        train_size=config.train_size,
        test_size=config.test_size,
        seed=config.split_seed,
    )
    train = Part(source=train_source, positions_N=split.train_N, labels_N=raw.train_labels_N[split.train_N])
    mean_C, std_C = channel_statistics(train, seed=config.split_seed)
    _, channels, height, width = train.fetch(torch.tensor([0])).shape
    assert height == width
    return Dataset(
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
            positions_N=split.substitute_N,
            labels_N=raw.train_labels_N[split.substitute_N],
        ),
        test=Part(source=test_source, positions_N=split.test_N, labels_N=test_labels_N[split.test_N]),
    )


@lru_cache(maxsize=1)
def load_dataset_once(config: DatasetConfig) -> Dataset:
    """load_dataset for stages that follow one another in a process: the latest dataset is kept."""
    return load_dataset(config)


def _fitted(source: ImageSource, config: DatasetConfig) -> ImageSource:
    """The source at the configured size and channels; files were already decoded to them."""
    if not isinstance(source, TensorSource):
        return source
    _, _, height, width = source.images_NCHW.shape
    if config.image_size == 0 and height != width:
        raise UserError(
            f"dataset.image_size=0 keeps the native size, but {config.name} images are {width}x{height}, not square; "
            f"set dataset.image_size={min(height, width)}"
        )
    return TensorSource(fit_images(source.images_NCHW, config.image_size or height, grayscale=config.grayscale))


def _check_values(config: DatasetConfig) -> None:
    lowest = {"image_size": 0, "substitute_pool": 0, "train_size": 1, "test_size": 1, "max_memory_mb": 0}
    for key, low in lowest.items():
        value = getattr(config, key)
        if value is not None and value < low:
            raise UserError(f"dataset.{key}={value} must be {low} or more")


def _warn_of_settings_without_effect(config: DatasetConfig, uses: frozenset[str]) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(DatasetConfig)}
    for key in _OPTIONAL_SETTINGS:
        value = getattr(config, key)
        if key not in uses and value != defaults[key]:
            warnings.warn(f"dataset.{key}={value!r} has no effect for dataset={config.name}", stacklevel=3)
