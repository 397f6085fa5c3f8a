"""gtsrb: German traffic signs of 43 kinds, colour, sizes from 15 to 250 pixels (Stallkamp et al. 2012), as files.

The training images are film strips: about 30 frames of each physical sign. The substitute pool is disjoint from the
victim's images, but shows the same signs.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from rnet.data.config import GTSRBConfig
from rnet.data.download import open_or_download
from rnet.data.folder import file_sources, files_by_class
from rnet.data.images import RawImages

NUM_CLASSES = 43


def load_gtsrb(config: GTSRBConfig) -> RawImages:
    """The official training and test images, in the folder layout of torchvision."""
    (train_paths, train_labels_N), (test_paths, test_labels_N) = open_or_download(
        config, _list_files, "the folder gtsrb with GTSRB/Training, GTSRB/Final_Test and GT-final_test.csv"
    )
    train, test = file_sources(config, train_paths, test_paths)
    return RawImages(
        train=train,
        train_labels_N=train_labels_N,
        test=test,
        test_labels_N=test_labels_N,
        num_classes=NUM_CLASSES,
        flip=False,
    )


Listed = tuple[list[str], Tensor]


def _list_files(folder: str, download: bool) -> tuple[Listed, Listed]:
    """(paths, labels) of the training and of the test images. Raises FileNotFoundError where something is missing."""
    if download:
        from torchvision.datasets import GTSRB

        for split in ("train", "test"):
            GTSRB(folder, split=split, download=True)
    base = Path(folder) / "gtsrb"
    by_class = files_by_class(base / "GTSRB" / "Training", (".ppm",))
    if len(by_class) != NUM_CLASSES or not all(by_class.values()):
        full = sum(1 for files in by_class.values() if files)
        raise FileNotFoundError(f"GTSRB/Training has images in {full} class folders, not in {NUM_CLASSES}")
    train_labels = [label for label, files in enumerate(by_class.values()) for _ in files]
    with (base / "GT-final_test.csv").open(newline="") as file:
        rows = [(row["Filename"], int(row["ClassId"])) for row in csv.DictReader(file, delimiter=";")]
    test_paths = [str(base / "GTSRB" / "Final_Test" / "Images" / name) for name, _ in rows]
    train_paths = [path for files in by_class.values() for path in files]
    return (train_paths, torch.tensor(train_labels)), (test_paths, torch.tensor([label for _, label in rows]))
