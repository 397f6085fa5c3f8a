"""What a data set's files are: images with their labels, groups and boxes, and the tables that say so."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnet.data.files.names import counted, shown, some
from rnet.data.files.tree import Tree

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, as Pillow crops: right and bottom are the first that are out."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageFiles:
    """Image files with labels. Names are relative to the folder.

    test, test_labels: None where there are no official test images. train_groups, test_groups: of each image the lesion
    or person it shows, None where nobody knows; grouped_by: what that is called. boxes: by name, what is cut out of an
    image. tables: further files that were read. notes: what the user should know, each a sentence.
    """

    folder: Path
    train: Sequence[str]
    train_labels: Sequence[int]
    test: Sequence[str] | None = None
    test_labels: Sequence[int] | None = None
    class_names: tuple[str, ...]
    train_groups: Sequence[str] | None = None
    test_groups: Sequence[str] | None = None
    grouped_by: str = "group"
    boxes: Mapping[str, Box] | None = None
    tables: tuple[str, ...] = ()
    flip: bool = True
    notes: tuple[str, ...] = ()


def images_of(tree: Tree) -> list[str]:
    """All images of a folder, those in class folders too."""
    return [*tree.loose, *(name for names in tree.by_class.values() for name in names)]


def by_stem(names: Sequence[str]) -> dict[str, str]:
    """{name without folders and suffix: name}; of two with one stem, the first."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(os.path.splitext(os.path.basename(name))[0], name)
    return found


def listed_images(index: Mapping[str, str], wanted: Sequence[str], table: str) -> list[str]:
    """The files of the images that a table lists. index: by_stem, or of whole names.

    Raises FileNotFoundError if some are not there, or listed twice.
    """
    if missing := [name for name in wanted if name not in index]:
        raise FileNotFoundError(
            f"{len(missing):,} of {counted(len(wanted), 'image')} that {shown(table)} lists are missing: "
            f"{some(missing)}"
        )
    if twice := [name for name, count in Counter(wanted).items() if count > 1]:
        raise FileNotFoundError(f"{shown(table)} lists {counted(len(twice), 'image')} twice: {some(twice)}")
    return [index[name] for name in wanted]


def unlisted_note(index: Mapping[str, str], wanted: Sequence[str], table: str) -> tuple[str, ...]:
    """A sentence on the images that a table does not list; none without any."""
    left = sorted(index.keys() - set(wanted))
    if not left:
        return ()
    them = "it" if len(left) == 1 else "them"
    return (f"{counted(len(left), 'image')} left out, as {shown(table)} does not list {them}: {some(left)}",)
