"""image_folder: the user's own images, a folder per class, e.g. an unpacked ImageNet.

folder/train/<class>/*.jpg and folder/test/<class>/*.jpg (or val)   official test images
folder/<class>/*.jpg, or folder/train only                          the test images are split off
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rnet.data.config import ImageFolderConfig
from rnet.data.folder import file_sources, files_by_class
from rnet.data.images import RawImages
from rnet.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


def load_image_folder(config: ImageFolderConfig) -> RawImages:
    """Classes are the folders' names in alphabetical order; `test` is preferred to `val` where both exist."""
    folder = _folder(config)
    train_folder = folder / "train" if (folder / "train").is_dir() else folder
    test_folder = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test_folder is not None and train_folder is folder:
        raise UserError(f"dataset.folder={folder} has a folder {test_folder.name} but no folder train; add it")
    by_class = _files(train_folder)
    classes = list(by_class)
    train_paths, train_labels_N = _flat(by_class, classes)
    if test_folder is None:
        (train,) = file_sources(config, train_paths)
        return RawImages(train=train, train_labels_N=train_labels_N, num_classes=len(classes), flip=True)
    test_by_class = _files(test_folder)
    if unknown := sorted(set(test_by_class) - set(classes)):
        raise UserError(f"{test_folder} has classes that {train_folder} has not: {', '.join(unknown[:5])}; rename them")
    test_paths, test_labels_N = _flat(test_by_class, classes)
    train, test = file_sources(config, train_paths, test_paths)
    return RawImages(
        train=train,
        train_labels_N=train_labels_N,
        test=test,
        test_labels_N=test_labels_N,
        num_classes=len(classes),
        flip=True,
    )


def _folder(config: ImageFolderConfig) -> Path:
    if config.folder is None:
        raise UserError("dataset=image_folder needs dataset.folder, a folder with a folder of images per class")
    folder = Path(config.folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.folder={config.folder!r} is not a folder; give one with a folder of images per class")
    return folder


def _files(folder: Path) -> dict[str, list[str]]:
    by_class = files_by_class(folder, SUFFIXES)
    if len(by_class) < 2:
        raise UserError(
            f"{folder} has {len(by_class)} class folders; it needs a folder of images for each of 2 or more"
        )
    if empty := [name for name, paths in by_class.items() if not paths]:
        raise UserError(
            f"{folder / empty[0]} holds no image ({', '.join(SUFFIXES)}), yet every folder beside it is a class; "
            f"add images or remove it"
        )
    return by_class


def _flat(by_class: dict[str, list[str]], classes: list[str]) -> tuple[list[str], Tensor]:
    """All files, and the class of each as its position in `classes`."""
    label_of = {name: label for label, name in enumerate(classes)}
    labels_N = torch.tensor([label_of[name] for name, files in by_class.items() for _ in files])
    return [path for files in by_class.values() for path in files], labels_N
