"""The layout of one's own images: a folder per class, in train and test folders or not."""

from __future__ import annotations

import os
from pathlib import Path

from rnet.data.config import ImageFolderConfig
from rnet.data.files.classes import class_indices, labels_by_name, orders_differ
from rnet.data.files.listing import ImageFiles
from rnet.data.files.names import by_suffix, counted, is_system, nfc, shown, some
from rnet.data.files.suffixes import image_suffixes
from rnet.data.files.tables import read_table
from rnet.data.files.tree import Tree, kind_of, read_tree
from rnet.errors import UserError

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")
"""Names of the parts' folders, in any case; where there are several, the first of these is taken."""


def list_image_folder(config: ImageFolderConfig) -> ImageFiles:
    """What dataset.folder holds. Raises UserError, with the remedy, for a folder that is not laid out so."""
    folder = _folder(config)
    notes: list[str] = []
    train_name, test_name = _parts(folder, notes)
    train = _classes(folder, train_name, notes)
    test = None if test_name is None else _classes(folder, test_name, notes)
    index_of, class_names = class_indices(list(train.by_class), config, shown(train.folder))
    if test is not None and (unknown := sorted(set(test.by_class) - set(index_of))):
        raise UserError(
            f"{shown(test.folder)} has classes that {shown(train.folder)} has not: {some(unknown, 5)}; rename them"
        )
    if config.class_map is None and (orders := orders_differ(class_names)):
        notes.append(
            f"the orders of the class folders differ: {orders}; dataset.class_order={config.class_order} "
            f"numbers the classes; weights that were trained elsewhere may need the other, or a dataset.class_map"
        )
    train_names = _below(train_name, train)
    test_names = None if test is None else _below(test_name, test)
    train_groups, test_groups = _groups(config, train_names, test_names, notes)
    return ImageFiles(
        folder=folder,
        train=train_names,
        train_labels=labels_by_name(train.by_class, index_of),
        test=test_names,
        test_labels=None if test is None else labels_by_name(test.by_class, index_of),
        train_groups=train_groups,
        test_groups=test_groups,
        class_names=class_names,
        notes=tuple(notes),
    )


def _folder(config: ImageFolderConfig) -> Path:
    if config.folder is None:
        raise UserError("dataset=image_folder needs dataset.folder, a folder with a folder of images per class")
    folder = Path(config.folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.folder={config.folder!r} is not a folder; give one with a folder of images per class")
    return folder


def _parts(folder: Path, notes: list[str]) -> tuple[str | None, str | None]:
    """The names of the training and of the test folder; None for the folder itself and for none."""
    folders = _folders_in(folder)
    trains, tests = (_named(folders, names) for names in (TRAIN, TEST))
    rest = [name for name in folders if name not in (*trains, *tests)]
    if trains and rest and not _folders_in(folder / trains[0]):
        return None, None  # a class called train, beside others
    if tests and not trains:
        raise UserError(f"dataset.folder={folder} has a folder {tests[0]} but no folder train; add it")
    for found in (trains, tests):
        if len(found) > 1:
            notes.append(f"of the folders {', '.join(found)}, {found[0]} is read and the others are not")
    if trains and rest:
        notes.append(f"beside {trains[0]}, the folders {some(rest)} are not read")
    return (trains[0] if trains else None), (tests[0] if tests else None)


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not is_system(entry.name) and kind_of(entry) == "folder")
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be listed: {error.strerror}; check its permissions") from None


def _named(folders: list[str], names: tuple[str, ...]) -> list[str]:
    """The folders with one of the names in any case, in the order of names; lower case first."""
    found = [name for name in folders if name.lower() in names]
    return sorted(found, key=lambda name: (names.index(name.lower()), name != name.lower(), name))


def _classes(folder: Path, part: str | None, notes: list[str]) -> Tree:
    tree = read_tree(folder / part if part else folder, image_suffixes())
    place, count = shown(tree.folder), len(tree.by_class)
    if tree.loose and count < 2:
        raise UserError(
            f"{place} holds {counted(len(tree.loose), 'image')} outside of class folders ({some(tree.loose, 1)}), of "
            f"unknown classes; sort them into a folder per class"
            + (
                f", or move {nfc(part)} elsewhere to have test images split off"
                if part and part.lower() in TEST
                else ""
            )
        )
    if count < 2:
        raise UserError(
            f"{place} has {counted(count, 'class folder')}; it needs a folder of images for each of 2 or more"
        )
    if empty := [name for name, paths in tree.by_class.items() if not paths]:
        raise UserError(
            f"{place}/{shown(empty[0])} holds no image that can be decoded here ({_held(tree, empty[0])}), yet every "
            f"folder beside it is a class; add images or remove it"
        )
    if tree.loose:
        notes.append(f"{counted(len(tree.loose), 'image')} of {place} left out, in no class folder: "
                     f"{some(tree.loose)}")  # fmt: skip
    if tree.others:
        system = f" (and {tree.hidden:,} hidden or of the system)" if tree.hidden else ""
        notes.append(f"{counted(len(tree.others), 'file')} of {place} left out: {by_suffix(tree.others)}{system}")
    return tree


def _held(tree: Tree, name: str) -> str:
    held = [path for path in tree.others if nfc(path.split("/")[0]) == name]
    return f"but {by_suffix(held)}" if held else "it is empty"


def _below(part: str | None, tree: Tree) -> list[str]:
    prefix = f"{part}/" if part else ""
    return [prefix + path for paths in tree.by_class.values() for path in paths]


def _groups(
    config: ImageFolderConfig, train: list[str], test: list[str] | None, notes: list[str]
) -> tuple[list[str] | None, list[str] | None]:
    """The groups of all images by dataset.groups; an image that it does not name is a group of its own."""
    if config.groups is None:
        return None, None
    setting = f"dataset.groups={config.groups}"
    try:
        rows = read_table(Path(config.groups).expanduser(), "file", "group")
    except OSError as error:
        raise UserError(f"{setting} cannot be read: {error.strerror or error}; it takes lines of file,group") from None
    group_of = {nfc(file): group for file, group in rows}
    names = [*train, *(test or [])]
    known = {nfc(name) for name in names}
    if unlisted := [name for name in names if nfc(name) not in group_of]:
        if len(unlisted) == len(names):
            raise UserError(
                f"{setting} names none of the images, e.g. {shown(names[0])}; write them relative to {config.folder}"
            )
        notes.append(f"{counted(len(unlisted), 'image')} without a group in {setting}: {some(unlisted)}")
    if missing := [file for file, _ in rows if nfc(file) not in known]:
        notes.append(f"{counted(len(missing), 'file')} of {setting} not among the images: {some(missing)}")
    groups = [group_of.get(nfc(name), f"\0{name}") for name in names]
    return groups[: len(train)], None if test is None else groups[len(train) :]
