"""cifar10: 50,000 + 10,000 colour photographs of ten kinds of things, 32x32 (Krizhevsky 2009), through torchvision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnet.data.config import CIFAR10Config
from rnet.data.download import open_or_download
from rnet.data.files.published import HOLDS
from rnet.data.images import RawImages, TensorSource


def load_cifar10(config: CIFAR10Config) -> RawImages:
    """The official training and test images; torchvision verifies the checksums of the files."""
    train, test = open_or_download(config, _open, HOLDS["cifar10"])
    train_source, train_labels_N = _tensors(train)
    test_source, test_labels_N = _tensors(test)
    return RawImages(
        train=train_source,
        train_labels_N=train_labels_N,
        test=test_source,
        test_labels_N=test_labels_N,
        num_classes=10,
        class_names=tuple(train.classes),
        flip=True,
    )


def _open(folder: str, download: bool) -> tuple[Any, Any]:
    from torchvision.datasets import CIFAR10

    return CIFAR10(folder, train=True, download=download), CIFAR10(folder, train=False, download=download)


def _tensors(images: Any) -> tuple[TensorSource, Tensor]:
    images_NHWC = torch.from_numpy(images.data)
    return TensorSource(images_NHWC.permute(0, 3, 1, 2).contiguous()), torch.tensor(images.targets)
