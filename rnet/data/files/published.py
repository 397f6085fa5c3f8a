"""The files of published data sets, in the layouts in which they are unpacked. What is missing raises OSError."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rnet.data.files.tables import read_table, whole_numbers
from rnet.data.files.tree import Tree, read_tree

GTSRB_CLASSES = 43

# People of LFW with fewer pictures are left out: 62 people and 3,023 pictures remain.
LFW_MIN_IMAGES = 20

# Below dataset.folder, in this order: scikit-learn's place, torchvision's, an unpacked archive, the folder itself.
LFW_PLACES = ("lfw_home/lfw_funneled", "lfw-py/lfw_funneled", "lfw_funneled", "lfw-deepfunneled", "lfw", ".")

HOLDS = {
    "celeba": "the folder celeba with img_align_celeba and its text files",
    "cifar10": "the folder cifar-10-batches-py",
    "gtsrb": "the folder gtsrb with GTSRB/Training, GTSRB/Final_Test and GT-final_test.csv",
    "lfw": f"a folder lfw_funneled with a folder per person, some with {LFW_MIN_IMAGES} pictures or more",
}
"""What dataset.folder has to hold, for messages."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Names of image files below a folder, and the class of each."""

    names: list[str]
    labels: list[int]


def list_gtsrb(folder: Path) -> tuple[Labelled, Labelled]:
    """The training and the test images below folder/gtsrb."""
    base = folder / "gtsrb"
    training = base / "GTSRB" / "Training"
    by_class = _class_folders(training, ".ppm").by_class
    if len(by_class) != GTSRB_CLASSES or not all(by_class.values()):
        full = sum(1 for files in by_class.values() if files)
        raise FileNotFoundError(f"GTSRB/Training has images in {full} class folders, not in {GTSRB_CLASSES}")
    train_labels = [label for label, files in enumerate(by_class.values()) for _ in files]
    train_names = [f"GTSRB/Training/{name}" for files in by_class.values() for name in files]
    table = base / "GT-final_test.csv"
    rows = read_table(table, "Filename", "ClassId", delimiter=";")
    test_names = [f"GTSRB/Final_Test/Images/{name}" for name, _ in rows]
    return (
        Labelled(names=train_names, labels=train_labels),
        Labelled(names=test_names, labels=whole_numbers(table, [label for _, label in rows])),
    )


def list_celeba(folder: Path) -> list[str]:
    """Tables and photographs below folder/celeba."""
    tables = ("list_eval_partition", "identity_CelebA", "list_bbox_celeba", "list_landmarks_align_celeba",
              "list_attr_celeba")  # fmt: skip
    with (folder / "celeba" / f"{tables[0]}.txt").open() as file:
        photographs = [f"img_align_celeba/{line.split()[0]}" for line in file if line.strip()]
    return [*(f"{table}.txt" for table in tables), *photographs]


def list_cifar10(folder: Path) -> list[str]:
    """The files below folder/cifar-10-batches-py."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    for name in names:
        if not (folder / "cifar-10-batches-py" / name).is_file():
            raise FileNotFoundError(f"no file cifar-10-batches-py/{name}")
    return names


def list_lfw(folder: Path) -> Tree:
    """A class per person with enough pictures, in the first place that has any."""
    for place in (folder / name for name in LFW_PLACES):
        if place.is_dir():
            tree = _class_folders(place, ".jpg")
            tree.by_class = {name: files for name, files in tree.by_class.items() if len(files) >= LFW_MIN_IMAGES}
            if len(tree.by_class) > 1:
                return tree
    raise FileNotFoundError(f"no people with {LFW_MIN_IMAGES} pictures in it")


def _class_folders(folder: Path, suffix: str) -> Tree:
    if not folder.is_dir():
        raise FileNotFoundError(2, "No such file or directory", str(folder))
    return read_tree(folder, (suffix,))
