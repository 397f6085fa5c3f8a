"""celeba: 182,637 + 19,962 colour photographs of faces, 178x218 (Liu et al. 2015); one of 40 attributes, yes or no.

The official validation images join the training images, for victim and attacker to share.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from rnet.data.config import CelebAConfig
from rnet.data.download import open_or_download
from rnet.data.files.published import HOLDS
from rnet.data.folder import file_sources
from rnet.data.images import RawImages
from rnet.errors import unknown_name

# About half of the faces smile (48 %), so that accuracy means something.
DEFAULT_ATTRIBUTE = "Smiling"


def load_celeba(config: CelebAConfig) -> RawImages:
    """Two classes: 1 where dataset.attribute holds. torchvision verifies the checksums of the annotation files."""
    train, valid, test = open_or_download(config, _open, HOLDS["celeba"])
    attribute = config.attribute or DEFAULT_ATTRIBUTE
    names = [name for name in train.attr_names if name]
    if attribute not in names:
        raise unknown_name("dataset.attribute", attribute, names)
    column = names.index(attribute)
    train_source, test_source = file_sources(config, [*_paths(train), *_paths(valid)], _paths(test))
    return RawImages(
        train=train_source,
        train_labels_N=torch.cat([train.attr[:, column], valid.attr[:, column]]).long(),
        test=test_source,
        test_labels_N=test.attr[:, column].long(),
        num_classes=2,
        class_names=(f"not {attribute}", attribute),
        flip=True,
    )


def _open(folder: str, download: bool) -> tuple[Any, ...]:
    from torchvision.datasets import CelebA

    return tuple(CelebA(folder, split=split, download=download) for split in ("train", "valid", "test"))


def _paths(images: Any) -> list[str]:
    folder = os.path.join(images.root, images.base_folder, "img_align_celeba")
    return [os.path.join(folder, name) for name in images.filename]
