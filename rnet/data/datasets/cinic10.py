"""cinic10: 270,000 colour images of CIFAR-10's ten classes, 32x32, in three equal parts (Darlow et al. 2018).

60,000 are the images of CIFAR-10, the others were reduced from ImageNet and not looked at by anybody.
"""

from __future__ import annotations

from pathlib import Path

from rnet.data.datasets.config import CINIC10Config
from rnet.data.files.listing import ImageFiles
from rnet.data.files.places import place_of
from rnet.data.files.tree import read_tree

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_OF_CIFAR10 = "cifar"
"""How the files of CIFAR-10's images begin: cifar10-train-49.png; the others are named like n02690373_16.png."""


def list_cinic10(config: CINIC10Config) -> ImageFiles:
    """train and test as published; dataset.valid says what becomes of the validation images."""
    folder = place_of(config, "train/airplane")
    notes: list[str] = []
    parts = {part: _read(folder, part, config, notes) for part in ("train", "test")}
    if config.valid != "unused":
        names, labels = _read(folder, "valid", config, notes)
        parts[config.valid] = (parts[config.valid][0] + names, parts[config.valid][1] + labels)
    (train, train_labels), (test, test_labels) = parts["train"], parts["test"]
    return ImageFiles(
        folder=folder, train=train, train_labels=train_labels, test=test, test_labels=test_labels,
        class_names=CLASSES, notes=tuple(notes),
    )  # fmt: skip


def _read(folder: Path, part: str, config: CINIC10Config, notes: list[str]) -> tuple[list[str], list[int]]:
    """The names and labels of a part. Raises FileNotFoundError unless it has images of every class."""
    if not (folder / part).is_dir():
        raise FileNotFoundError(f"there is no {folder / part}")
    tree = read_tree(folder / part, (".png",))
    kept = {
        name: [file for file in files if config.cifar10_images or not Path(file).name.startswith(_OF_CIFAR10)]
        for name, files in tree.by_class.items()
    }
    full = [name for name, files in kept.items() if files]
    if tuple(full) != CLASSES:
        raise FileNotFoundError(f"{part} has images of {', '.join(full) or 'no class'}, not of {', '.join(CLASSES)}")
    if left := sum(map(len, tree.by_class.values())) - sum(map(len, kept.values())):
        notes.append(f"{left:,} images of CIFAR-10 in {part} left out")
    names = [f"{part}/{file}" for files in kept.values() for file in files]
    return names, [label for label, files in enumerate(kept.values()) for _ in files]
