"""huggingface: one's own images, or those of the Hub, in folders of the library datasets."""

from __future__ import annotations

import torch

from rnet.data.datasets.config import HuggingFaceConfig
from rnet.data.files.huggingface import read_tables
from rnet.data.folder import file_sources
from rnet.data.images import RawImages


def load_huggingface(config: HuggingFaceConfig) -> RawImages:
    """All rows of the training split, and of the test split if there is one. Raises UserError as read_tables does."""
    train, test = read_tables(config)
    sources = file_sources(config, train.images, *([] if test is None else [test.images]))
    return RawImages(
        train=sources[0],
        train_labels_N=torch.tensor(train.labels),
        test=None if test is None else sources[1],
        test_labels_N=None if test is None else torch.tensor(test.labels),
        num_classes=len(train.class_names),
        class_names=train.class_names,
        flip=True,
    )
