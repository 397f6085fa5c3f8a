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
from rnet.data.files.fashion_mnist import find_file, find_folder
from rnet.data.images import RawImages, TensorSource
from rnet.errors import UserError

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
NUM_CLASSES = len(CLASSES)
_LARGEST = 2**28
"""Bytes of images; the published file has 47,040,000."""


def load_fashion_mnist(config: FashionMNISTConfig) -> RawImages:
    """The official training and test images from dataset.folder, the system's folder, the cache, or a download."""
    folder = find_folder(config)
    train, train_labels_N = _read_part(folder, "train")
    test, test_labels_N = _read_part(folder, "t10k")
    return RawImages(
        train=train,
        train_labels_N=train_labels_N,
        test=test,
        test_labels_N=test_labels_N,
        num_classes=NUM_CLASSES,
        class_names=CLASSES,
        flip=True,
    )


def read_idx(path: Path, dims: int) -> Tensor:
    """The uint8 tensor of an idx file: magic number, big-endian sizes, bytes; gzip-compressed if its name ends in .gz.

    Raises UserError for a file that cannot be read, is no such idx file, is truncated, or has bytes left over.
    """
    remedy = "the file is damaged or something else; replace it"
    size = 4 + 4 * dims
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(size)
            if len(header) < size or header[:4] != bytes((0, 0, 8, dims)):  # 8 is the code of bytes
                raise UserError(f"{path} is not an idx file of bytes in {dims} dimensions; {remedy}")
            shape = np.frombuffer(header, ">u4", dims, offset=4).tolist()
            announced = math.prod(shape)
            content = file.read(announced + 1) if announced <= _LARGEST else b""  # no more, however much it unpacks to
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    if announced != len(content):
        sizes = f"{'x'.join(map(str, shape))} = {announced}"
        if announced > _LARGEST:
            raise UserError(f"{path} announces {sizes} bytes, more than the {_LARGEST} that are read; {remedy}")
        holds = "more" if len(content) > announced else f"{len(content)}"
        raise UserError(f"{path} announces {sizes} bytes but holds {holds}; {remedy}")
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy()).view(shape)


def _read_part(folder: Path, part: str) -> tuple[TensorSource, Tensor]:
    images_file = find_file(folder, f"{part}-images-idx3-ubyte")
    labels_file = find_file(folder, f"{part}-labels-idx1-ubyte")
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
