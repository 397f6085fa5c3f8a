"""imagenet: ILSVRC 2012, 1,281,167 + 50,000 colour photographs of 1,000 classes (Russakovsky et al. 2015).

train/<wnid>/*.JPEG, and val/<wnid>/*.JPEG or val/*.JPEG with the devkit's tables or Kaggle's LOC_val_solution.csv.
Classes are numbered in the order of their wnids, as torchvision and timm do; the devkit's own numbers are others.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from rnet.data.datasets.config import ImageNetConfig
from rnet.data.files.classes import class_indices, labels_by_name
from rnet.data.files.listing import ImageFiles
from rnet.data.files.names import counted, some
from rnet.data.files.places import place_of
from rnet.data.files.tables import read_table, whole_numbers
from rnet.data.files.tree import Tree, read_tree

_BELOW = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Where train and val are: in a folder of one's own, or as Kaggle's archive unpacks."""
_DEVKIT = ("", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")
_TRUTH, _META, _SOLUTION = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "LOC_val_solution.csv"
_SUFFIXES = (".jpeg", ".jpg", ".png")


def list_imagenet(config: ImageNetConfig) -> ImageFiles:
    """The official training and validation images; the latter test. A part of the classes will do, or a class map."""
    folder = place_of(config, *(f"{below}/train/n[0-9]*".lstrip("/") for below in _BELOW))
    below = next(below for below in _BELOW if any((folder / below / "train").glob("n[0-9]*")))
    train = read_tree(folder / below / "train", _SUFFIXES)
    train.by_class = {wnid: files[: config.per_class] for wnid, files in train.by_class.items() if files}
    index_of, class_names = class_indices(list(train.by_class), config, str(train.folder))
    if not (folder / below / "val").is_dir():
        raise FileNotFoundError(f"there is no {folder / below / 'val'}")
    val = read_tree(folder / below / "val", _SUFFIXES)
    labelled, tables = _validation(folder, val)
    known = [(name, wnid) for name, wnid in labelled if wnid in index_of]
    others = counted(len(labelled) - len(known), "validation image")
    return ImageFiles(
        folder=folder,
        train=_below(f"{below}/train", [name for files in train.by_class.values() for name in files]),
        train_labels=labels_by_name(train.by_class, index_of),
        test=_below(f"{below}/val", [name for name, _ in known]),
        test_labels=[index_of[wnid] for _, wnid in known],
        class_names=class_names,
        tables=tables,
        notes=(f"{others} left out, of classes that train has not",) * (len(known) < len(labelled)),
    )


def _validation(folder: Path, val: Tree) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """(name, wnid) of the validation images, and the tables that say so."""
    if any(val.by_class.values()):
        return [(name, wnid) for wnid, files in val.by_class.items() for name in files], ()
    if not val.loose:
        raise FileNotFoundError(f"{val.folder} holds no images")
    if (folder / _SOLUTION).is_file():
        rows = read_table(folder / _SOLUTION, "ImageId", "PredictionString")
        wnid_of = {image: prediction.partition(" ")[0] for image, prediction in rows}
        return _labelled(val, wnid_of, _SOLUTION), (_SOLUTION,)
    for place in _DEVKIT:
        tables = tuple(str(PurePosixPath(place) / name) for name in (_TRUTH, _META))
        if all((folder / table).is_file() for table in tables):
            return _labelled(val, _by_devkit(*(folder / table for table in tables)), _TRUTH), tables
    raise FileNotFoundError(
        f"{val.folder} has no folders of classes, and there is neither {_SOLUTION} nor {_TRUTH} with {_META}"
    )


def _by_devkit(truth: Path, meta: Path) -> dict[str, str]:
    """The wnid of every validation image: line n of the truth has the devkit's number for image n."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(str(meta), squeeze_me=True)["synsets"]
        wnids = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    except Exception as error:  # loadmat raises anything on files that are none of MATLAB's
        raise FileNotFoundError(f"{meta.name} is not the devkit's ({error!r})") from None
    numbers = whole_numbers(truth, truth.read_text().split())
    if unknown := sorted(set(numbers) - wnids.keys()):
        raise FileNotFoundError(f"{truth.name} has the class {unknown[0]}, which {meta.name} does not name")
    return {f"ILSVRC2012_val_{position:08d}": wnids[number] for position, number in enumerate(numbers, 1)}


def _labelled(val: Tree, wnid_of: dict[str, str], table: str) -> list[tuple[str, str]]:
    """(name, wnid) of images beside one another. Raises FileNotFoundError for one that the table does not list."""
    if unknown := [name for name in val.loose if PurePosixPath(name).stem not in wnid_of]:
        raise FileNotFoundError(f"{table} does not say the class of {len(unknown):,} images of val: {some(unknown)}")
    return [(name, wnid_of[PurePosixPath(name).stem]) for name in val.loose]


def _below(place: str, names: list[str]) -> list[str]:
    return [f"{place}/{name}".lstrip("/") for name in names]
