"""Which files each data set is read from: only those that its loader reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rnet.data.config import DatasetConfig
from rnet.data.download import data_folder, not_found
from rnet.data.files.fashion_mnist import FILES, find_file, find_folder
from rnet.data.files.image_folder import list_image_folder
from rnet.data.files.published import HOLDS, list_celeba, list_cifar10, list_gtsrb, list_lfw
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
    if config.name in _LISTS:
        folder, names = _LISTS[config.name](config)
    elif (listing := _of_plugin(config.name)) is not None:
        folder, names = listing(config)
    else:
        return None
    return FileSet(folder=Path(folder), names=tuple(names))


Listing = Callable[[DatasetConfig], tuple[Path, Iterable[str]]]


def _of_plugin(name: str) -> Listing | None:
    return getattr(DATASETS.load(name), "files", None) if ":" in DATASETS.full_name(name) else None


def _image_folder(config: DatasetConfig) -> tuple[Path, Iterable[str]]:
    found = list_image_folder(config)
    return found.folder, [*found.train, *(found.test or [])]


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


_LISTS: Mapping[str, Listing] = {
    "celeba": _published(lambda folder: (folder / "celeba", list_celeba(folder))),
    "cifar10": _published(lambda folder: (folder / "cifar-10-batches-py", list_cifar10(folder))),
    "fashion_mnist": _fashion_mnist,
    "gtsrb": _published(_gtsrb),
    "image_folder": _image_folder,
    "lfw": _published(_lfw),
}
