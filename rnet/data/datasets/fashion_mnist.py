"""fashion_mnist: 60,000 + 10,000 images of clothes, 28x28, one channel (Xiao et al. 2017), read from its idx files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rnet.data.config import FashionMNISTConfig
from rnet.data.download import data_folder, open_or_download
from rnet.data.images import RawImages, TensorSource
from rnet.errors import UserError

# Where the Debian package dataset-fashion-mnist puts the files.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")

NUM_CLASSES = 10
_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def load_fashion_mnist(config: FashionMNISTConfig) -> RawImages:
    """The official training and test images from dataset.folder, the system's folder, the cache, or a download."""
    folder = _find_folder(config)
    train, train_labels_N = _read_part(folder, "train")
    test, test_labels_N = _read_part(folder, "t10k")
    return RawImages(
        train=train,
        train_labels_N=train_labels_N,
        test=test,
        test_labels_N=test_labels_N,
        num_classes=NUM_CLASSES,
        flip=True,
    )


def read_idx(path: Path, dims: int) -> Tensor:
    """The uint8 tensor of an idx file: magic number, big-endian sizes, bytes; gzip-compressed if its name ends in .gz.

    Raises UserError for a file that cannot be read, is no such idx file, is truncated, or has bytes left over.
    """
    remedy = "the file is damaged or something else; replace it"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    header = 4 + 4 * dims
    if len(content) < header or content[:4] != bytes((0, 0, 8, dims)):  # 8 is the code of bytes
        raise UserError(f"{path} is not an idx file of bytes in {dims} dimensions; {remedy}")
    shape = np.frombuffer(content, ">u4", dims, offset=4).tolist()
    if math.prod(shape) != len(content) - header:
        sizes = f"{'x'.join(map(str, shape))} = {math.prod(shape)}"
        raise UserError(f"{path} announces {sizes} bytes but holds {len(content) - header}; {remedy}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy()).view(shape)


def _find_folder(config: FashionMNISTConfig) -> Path:
    """The first folder that holds all four files, after a download if one is allowed and needed."""
    root = data_folder(config)
    downloaded = root / "FashionMNIST" / "raw"
    places = [root, downloaded] if config.folder else [SYSTEM_FOLDER, downloaded]
    for place in places:
        if not _missing(place):
            return place
    if config.download:
        open_or_download(config, _download, "the four idx files of Fashion-MNIST")
        return downloaded
    looked = " and ".join(f"{place} ({_reason(place)})" for place in places)
    raise UserError(
        f"dataset=fashion_mnist was not found; looked in {looked}. Install the package dataset-fashion-mnist with "
        f"apt, set dataset.folder to a folder with the four idx files, or set dataset.download=true"
    )


def _missing(folder: Path) -> list[str]:
    return [name for name in _FILES if _file(folder, name) is None]


def _reason(folder: Path) -> str:
    missing = _missing(folder)
    if not folder.is_dir():
        return "no such folder"
    return f"lacks {', '.join(missing)}" if len(missing) < len(_FILES) else "has none of the four idx files"


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _read_part(folder: Path, part: str) -> tuple[TensorSource, Tensor]:
    images_file, labels_file = _file(folder, f"{part}-images-idx3-ubyte"), _file(folder, f"{part}-labels-idx1-ubyte")
    assert images_file is not None
    assert labels_file is not None
    images_NHW, labels_N = read_idx(images_file, dims=3), read_idx(labels_file, dims=1)
    if len(images_NHW) != len(labels_N):
        raise UserError(
            f"{images_file} holds {len(images_NHW)} images but {labels_file} {len(labels_N)} labels; they do not "
            f"belong together, replace both"
        )
    if len(labels_N) == 0 or labels_N.max() >= NUM_CLASSES:
        raise UserError(f"{labels_file} is empty or holds labels above {NUM_CLASSES - 1}; replace it")
    return TensorSource(images_NHW.unsqueeze(1)), labels_N.long()


def _download(folder: str, download: bool) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(folder, download=download)
