"""image_folder: the user's own images, a folder per class, e.g. an unpacked ImageNet.

folder/train/<class>/**/*.jpg and folder/test/<class>/**/*.jpg (or val)   official test images
folder/<class>/**/*.jpg, or folder/train only                             the test images are split off
"""

from __future__ import annotations

import torch

from rnet.data.config import ImageFolderConfig
from rnet.data.files.image_folder import list_image_folder
from rnet.data.folder import file_sources
from rnet.data.images import RawImages
from rnet.data.saying import say


def load_image_folder(config: ImageFolderConfig) -> RawImages:
    """Every image that Pillow decodes, with its class folder's place in the configured order as its label."""
    found = list_image_folder(config)
    for note in found.notes:
        say(note)
    lists = [[str(found.folder / name) for name in names] for names in (found.train, found.test) if names is not None]
    train, *test = file_sources(config, *lists)
    return RawImages(
        train=train,
        train_labels_N=torch.tensor(found.train_labels),
        test=test[0] if test else None,
        test_labels_N=None if found.test_labels is None else torch.tensor(found.test_labels),
        num_classes=len(found.class_names),
        class_names=found.class_names,
        flip=True,
    )
