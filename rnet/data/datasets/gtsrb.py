"""gtsrb: German traffic signs of 43 kinds, colour, sizes from 15 to 250 pixels (Stallkamp et al. 2012), as files.

The training images are film strips: about 30 frames of each physical sign. The substitute pool is disjoint from the
victim's images, but shows the same signs.
"""

from __future__ import annotations

from pathlib import Path

import torch

from rnet.data.config import GTSRBConfig
from rnet.data.download import data_folder, open_or_download
from rnet.data.files.published import GTSRB_CLASSES, HOLDS, Labelled, list_gtsrb
from rnet.data.folder import file_sources
from rnet.data.images import RawImages


def load_gtsrb(config: GTSRBConfig) -> RawImages:
    """The official training and test images, in the folder layout of torchvision."""
    train, test = open_or_download(config, _list_files, HOLDS["gtsrb"])
    base = data_folder(config) / "gtsrb"
    train_source, test_source = file_sources(config, *([str(base / name) for name in p.names] for p in (train, test)))
    return RawImages(
        train=train_source,
        train_labels_N=torch.tensor(train.labels),
        test=test_source,
        test_labels_N=torch.tensor(test.labels),
        num_classes=GTSRB_CLASSES,
        flip=False,
    )


def _list_files(folder: str, download: bool) -> tuple[Labelled, Labelled]:
    """The training and the test images. Raises OSError where something is missing."""
    if download:
        from torchvision.datasets import GTSRB

        for split in ("train", "test"):
            GTSRB(folder, split=split, download=True)
    return list_gtsrb(Path(folder))
