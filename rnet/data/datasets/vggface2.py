"""vggface2: 3.31 million colour photographs of 9,131 people's faces, in a folder for each (Cao et al. 2018).

The 8,631 people of the training folder and the 500 of the test folder are different ones: whose face it is can only be
asked of the former; dataset.attribute=Male is asked of both.
"""

from __future__ import annotations

from pathlib import Path

from rnet.data.datasets.config import VGGFace2Config
from rnet.data.files.listing import ImageFiles
from rnet.data.files.names import some
from rnet.data.files.places import place_of
from rnet.data.files.tables import read_rows
from rnet.data.files.tree import Tree, read_tree

_TABLES = ("identity_meta.csv", "meta/identity_meta.csv", "data/identity_meta.csv")
_TEST = ("test", "val")


def list_vggface2(config: VGGFace2Config) -> ImageFiles:
    """A class per person of the training folder, in the order of their names; or two classes by dataset.attribute."""
    folder = place_of(config, "train/n[0-9]*")
    people = _people(folder / "train", config)
    if config.attribute is not None:
        return _by_attribute(folder, people, config)
    if len(people.by_class) < 2:
        raise FileNotFoundError(f"train has {len(people.by_class)} folders of people; it takes 2 or more")
    return ImageFiles(
        folder=folder,
        train=_names("train", people),
        train_labels=[label for label, files in enumerate(people.by_class.values()) for _ in files],
        class_names=tuple(people.by_class),
    )


def _by_attribute(folder: Path, people: Tree, config: VGGFace2Config) -> ImageFiles:
    table = next((name for name in _TABLES if (folder / name).is_file()), None)
    if table is None:
        raise FileNotFoundError(f"there is no {_TABLES[0]}, which says who is {config.attribute}")
    male = _who_is_male(folder / table)
    test = next((part for part in _TEST if (folder / part).is_dir()), None)
    others = None if test is None else _people(folder / test, config)
    unknown = [person for tree in (people, others) if tree for person in tree.by_class if person not in male]
    if unknown:
        raise FileNotFoundError(f"{table} does not say the Gender of {len(unknown):,} people: {some(unknown)}")
    return ImageFiles(
        folder=folder,
        train=_names("train", people),
        train_labels=[male[person] for person in _of_each(people)],
        train_groups=_of_each(people),
        test=None if others is None else _names(str(test), others),
        test_labels=None if others is None else [male[person] for person in _of_each(others)],
        test_groups=None if others is None else _of_each(others),
        grouped_by="person",
        class_names=(f"not {config.attribute}", str(config.attribute)),
        tables=(table,),
    )


def _people(folder: Path, config: VGGFace2Config) -> Tree:
    tree = read_tree(folder, (".jpg",), first=config.identities)
    tree.by_class = {person: files for person, files in tree.by_class.items() if files}
    if not tree.by_class:
        raise FileNotFoundError(f"{folder.name} has no folder with .jpg files")
    return tree


def _who_is_male(path: Path) -> dict[str, int]:
    """1 or 0 for each person, by the first column (Class_ID) and the last that is not empty (Gender).

    What is between holds names, with commas in some.
    """
    found = {}
    for row in read_rows(path, delimiter=",")[1:]:
        cells = [cell for cell in row if cell]
        if len(cells) > 1 and cells[-1] in ("m", "f"):
            found[cells[0]] = int(cells[-1] == "m")
    return found


def _names(part: str, tree: Tree) -> list[str]:
    return [f"{part}/{name}" for files in tree.by_class.values() for name in files]


def _of_each(tree: Tree) -> list[str]:
    """The person on every image."""
    return [person for person, files in tree.by_class.items() for _ in files]
