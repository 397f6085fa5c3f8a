"""From a list of image files to a dataset's images: decoded now, or on demand where they are many."""

from __future__ import annotations

import torch

from rnet.data.config import DatasetConfig
from rnet.data.files.listing import ImageFiles
from rnet.data.files.sets import list_images
from rnet.data.folder import file_sources
from rnet.data.images import RawImages
from rnet.data.saying import say


def load_listed(config: DatasetConfig) -> RawImages:
    """The images of a data set whose files rnet.data.files.sets lists."""
    return raw_images(list_images(config), config)


def raw_images(found: ImageFiles, config: DatasetConfig) -> RawImages:
    """Every listed image that Pillow decodes, and what is to be said of them."""
    for note in found.notes:
        say(note)
    lists = [[str(found.folder / name) for name in names] for names in (found.train, found.test) if names is not None]
    boxes = None if found.boxes is None else {str(found.folder / name): box for name, box in found.boxes.items()}
    train, *test = file_sources(config, *lists, boxes=boxes)
    return RawImages(
        train=train,
        train_labels_N=torch.tensor(found.train_labels),
        test=test[0] if test else None,
        test_labels_N=None if found.test_labels is None else torch.tensor(found.test_labels),
        train_groups=found.train_groups,
        test_groups=found.test_groups,
        grouped_by=found.grouped_by,
        num_classes=len(found.class_names),
        class_names=found.class_names,
        flip=found.flip,
    )
