"""tsrd: Chinese traffic signs of 58 kinds, 4,170 + 1,994 colour images of any size (Huang, NLPR), in PNG files.

A line of an annotation file: name;width;height;x1;y1;x2;y2;class; with the corners of the sign's box.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from rnet.data.datasets.config import TSRDConfig
from rnet.data.files.listing import Box, ImageFiles, images_of, listed_images, unlisted_note
from rnet.data.files.places import place_of
from rnet.data.files.tables import read_rows, whole_numbers
from rnet.data.files.tree import Tree, read_tree

NUM_CLASSES = 58
TABLES = {"train": "TsignRecgTrain4170Annotation.txt", "test": "TsignRecgTest1994Annotation.txt"}


def list_tsrd(config: TSRDConfig) -> ImageFiles:
    """The official training and test images."""
    folder = place_of(config, TABLES["train"], f"*/{TABLES['train']}")
    tree = read_tree(folder, (".png",))
    notes: list[str] = []
    boxes: dict[str, Box] = {}
    (train, train_labels, train_table), (test, test_labels, test_table) = (
        _read(tree, part, boxes, notes) for part in TABLES
    )
    return ImageFiles(
        folder=folder, train=train, train_labels=train_labels, test=test, test_labels=test_labels,
        class_names=tuple(f"{number:03d}" for number in range(NUM_CLASSES)), boxes=boxes if config.crop else None,
        tables=(train_table, test_table), flip=False, notes=tuple(notes),
    )  # fmt: skip


def _read(tree: Tree, part: str, boxes: dict[str, Box], notes: list[str]) -> tuple[list[str], list[int], str]:
    """A part's names and labels, and its table. Fills in boxes and notes."""
    table = next((name for name in tree.others if PurePosixPath(name).name == TABLES[part]), None)
    if table is None:
        raise FileNotFoundError(f"there is no {TABLES[part]}")
    path = tree.folder / table
    rows = read_rows(path, delimiter=";")
    if short := next((number for number, row in enumerate(rows, 1) if len(row) < 8), None):
        raise FileNotFoundError(f"{path.name} has fewer than 8 columns in line {short}")
    labels = whole_numbers(path, [row[7] for row in rows])
    if wrong := sorted(set(labels) - set(range(NUM_CLASSES))):
        raise FileNotFoundError(f"{path.name} has the class {wrong[0]}, but they count from 0 to {NUM_CLASSES - 1}")
    index: dict[str, str] = {}
    for name in _images_of_part(tree, part):
        index.setdefault(PurePosixPath(name).name, name)
    wanted = [row[0] for row in rows]
    names = listed_images(index, wanted, path.name)
    notes += unlisted_note(index, wanted, path.name)
    boxes |= zip(names, _boxes(path, rows), strict=True)
    return names, labels, table


def _images_of_part(tree: Tree, part: str) -> list[str]:
    """What is in folders named after the part (tsrd-train, TSRD-Test), or all where there are none."""
    named = [name for folder, names in tree.by_class.items() if part in folder.lower() for name in names]
    return named or images_of(tree)


def _boxes(path: Path, rows: list[list[str]]) -> list[Box]:
    """The boxes, whose corners belong to the sign."""
    columns = [whole_numbers(path, [row[column] for row in rows]) for column in range(3, 7)]
    return [(left, top, right + 1, bottom + 1) for left, top, right, bottom in zip(*columns, strict=True)]
