"""Class folders as torchvision and timm read them: every image below folder/<class>, however deep."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rnet.data.files.names import is_system, nfc, shown
from rnet.errors import UserError


@dataclass(kw_only=True)
class Tree:
    """What a folder of class folders holds; paths are relative to it.

    by_class: images by class, NFC names, both sorted. loose: images that are in no class folder. others: files that are
    no images. hidden: how many files and folders are the system's.
    """

    folder: Path
    by_class: dict[str, list[str]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: int = 0


def read_tree(folder: Path, suffixes: Collection[str], *, first: int | None = None) -> Tree:
    """Lists the folder; symbolic links are followed, each real folder once in a class.

    first: only so many class folders are read, and what comes after them is not seen. Raises UserError for a folder
    that cannot be listed, and for two class folders of one name.
    """
    tree = Tree(folder=folder)
    root = _identity(folder)
    for name, is_folder in _entries(folder, "", tree):
        if not is_folder:
            (tree.loose if _is_image(name, suffixes) else tree.others).append(name)
        elif _identity(folder / name) != root:  # a link to the folder itself is no class
            if nfc(name) in tree.by_class:
                raise UserError(f"{shown(folder)} has two folders of the name {shown(nfc(name))}, spelt in different "
                                f"Unicode forms; rename one")  # fmt: skip
            tree.by_class[nfc(name)] = _images_below(name, suffixes, tree, {root})
            if len(tree.by_class) == first:
                break
    tree.by_class = dict(sorted(tree.by_class.items()))
    return tree


def _images_below(name: str, suffixes: Collection[str], tree: Tree, seen: set[tuple[int, int]]) -> list[str]:
    """In torchvision's order: folder by folder, each sorted."""
    found: list[str] = []
    pending = [name]
    while pending:
        below = pending.pop()
        if (identity := _identity(tree.folder / below)) in seen:
            continue
        seen.add(identity)
        for entry, is_folder in _entries(tree.folder, below, tree):
            path = f"{below}/{entry}"
            (pending if is_folder else found if _is_image(entry, suffixes) else tree.others).append(path)
    return sorted(found, key=lambda path: (*(nfc(part) for part in os.path.split(path)), path))


def _entries(folder: Path, below: str, tree: Tree) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a folder) of what is in folder/below and is neither the system's nor a pipe or device."""
    try:
        with os.scandir(folder / below) as entries:
            listed = sorted((nfc(entry.name), entry.name, entry) for entry in entries)
    except OSError as error:
        raise UserError(f"{shown(folder / below)} cannot be listed: {error.strerror}; check its permissions") from None
    for _, name, entry in listed:
        if is_system(name):
            tree.hidden += 1
        elif (kind := kind_of(entry)) != "other":
            yield name, kind == "folder"
        else:
            tree.others.append(f"{below}/{name}" if below else name)


def kind_of(entry: os.DirEntry[str]) -> str:
    """folder, file or other (a pipe, a device). A link that leads nowhere is a file, one that cannot be read."""
    try:
        if entry.is_dir() or entry.is_file():
            return "folder" if entry.is_dir() else "file"
        return "file" if entry.is_symlink() and not os.path.exists(entry.path) else "other"
    except OSError:  # a link to itself
        return "file"


def _is_image(name: str, suffixes: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes


def _identity(folder: Path) -> tuple[int, int]:
    try:
        about = folder.stat()
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be listed: {error.strerror}; check its permissions") from None
    return about.st_dev, about.st_ino
