"""Which files each data set is read from: only those that its loader reads, with their labels where a list has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from rnet.data.config import DatasetConfig, LFWConfig
from rnet.data.datasets.bcn20000 import list_bcn20000
from rnet.data.datasets.cinic10 import list_cinic10
from rnet.data.datasets.ham10000 import list_ham10000
from rnet.data.datasets.imagenet import list_imagenet
from rnet.data.datasets.lfw_attribute import list_lfw_attribute
from rnet.data.datasets.tsrd import list_tsrd
from rnet.data.datasets.vggface2 import list_vggface2
from rnet.data.download import data_folder, not_found
from rnet.data.files.fashion_mnist import FILES, find_file, find_folder
from rnet.data.files.huggingface import files_of
from rnet.data.files.image_folder import list_image_folder
from rnet.data.files.listing import ImageFiles
from rnet.data.files.places import not_readable
from rnet.data.files.published import HOLDS, list_celeba, list_cifar10, list_gtsrb, list_lfw
from rnet.data.files.shards import shards_of
from rnet.data.registry import DATASETS
from rnet.errors import first_line


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """The files of a data set: names below a folder, in any order."""

    folder: Path
    names: tuple[str, ...]


def file_set(config: DatasetConfig) -> FileSet | None:
    """The files that the data set is read from, downloaded if the configuration says so; None if it has none.

    A plugin's function says which by an attribute, files: a function of its configuration that returns (folder, names).
    Raises UserError if they are not there.
    """
    if config.name in _LISTERS or _by_attribute(config):
        found = list_images(config)
        return FileSet(folder=found.folder, names=(*found.train, *(found.test or ()), *found.tables))
    if config.name in _LISTS:
        folder, names = _LISTS[config.name](config)
    elif (listing := _of_plugin(config.name)) is not None:
        folder, names = listing(config)
    else:
        return None
    return FileSet(folder=Path(folder), names=tuple(names))


def list_images(config: DatasetConfig) -> ImageFiles:
    """The image files of a data set with their labels, in the order in which they are decoded.

    Raises UserError that says what to download and where to put it, if they are not there.
    """
    try:
        return list_lfw_attribute(config) if _by_attribute(config) else _LISTERS[config.name](config)
    except OSError as error:
        raise not_readable(config, error) from error


def _by_attribute(config: DatasetConfig) -> TypeGuard[LFWConfig]:
    return isinstance(config, LFWConfig) and config.attribute is not None


Listing = Callable[[DatasetConfig], tuple[Path, Iterable[str]]]


def _of_plugin(name: str) -> Listing | None:
    return getattr(DATASETS.load(name), "files", None) if ":" in DATASETS.full_name(name) else None


def _fashion_mnist(config: DatasetConfig) -> tuple[Path, Iterable[str]]:
    folder = find_folder(config)
    found = [find_file(folder, name) for name in FILES]
    return folder, [file.name for file in found if file is not None]


def _gtsrb(folder: Path) -> tuple[Path, Iterable[str]]:
    train, test = list_gtsrb(folder)
    return folder / "gtsrb", [*train.names, *test.names, "GT-final_test.csv"]


def _lfw(folder: Path) -> tuple[Path, Iterable[str]]:
    people = list_lfw(folder)
    return people.folder, [name for names in people.by_class.values() for name in names]


def _published(list_files: Callable[[Path], tuple[Path, Iterable[str]]]) -> Listing:
    """The files below data_folder(config), which the loader downloads if they are missing and it may."""

    def listing(config: DatasetConfig) -> tuple[Path, Iterable[str]]:
        try:
            return list_files(data_folder(config))
        except OSError as error:
            if not config.download:
                raise not_found(config, first_line(error), HOLDS[config.name]) from error
        DATASETS.build(config)
        return list_files(data_folder(config))

    return listing


_LISTERS: Mapping[str, Callable[[Any], ImageFiles]] = {
    "bcn20000": list_bcn20000,
    "cinic10": list_cinic10,
    "ham10000": list_ham10000,
    "image_folder": list_image_folder,
    "imagenet": list_imagenet,
    "tsrd": list_tsrd,
    "vggface2": list_vggface2,
}

_LISTS: Mapping[str, Listing] = {
    "celeba": _published(lambda folder: (folder / "celeba", list_celeba(folder))),
    "cifar10": _published(lambda folder: (folder / "cifar-10-batches-py", list_cifar10(folder))),
    "fashion_mnist": _fashion_mnist,
    "gtsrb": _published(_gtsrb),
    "huggingface": files_of,
    "lfw": _published(_lfw),
    "webdataset": shards_of,
}
