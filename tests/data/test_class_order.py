"""Which number a class folder has: by the order of names, as torchvision or as timm, or by a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from timm.data.readers.reader_image_folder import find_images_and_targets
from torchvision.datasets import ImageFolder

from rnet.data.config import ImageFolderConfig
from rnet.data.files.classes import read_class_map
from rnet.data.files.image_folder import list_image_folder
from rnet.errors import UserError

NAMES = {
    "numbers": [str(i) for i in range(12)],
    "numbers within": ["img2", "img10", "img1", "img1b"],
    "capitals": ["Zebra", "apple", "Banana"],
    "leading zeros": ["007", "08", "9"],
    "several numbers": ["a1b10", "a1b9", "a2b1", "a10b1"],
    "words": ["cat", "dog", "eel"],
}


def write(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").touch()


def classes(folder: Path, **settings: Any) -> tuple[str, ...]:
    return list_image_folder(ImageFolderConfig(folder=str(folder), **settings)).class_names


@pytest.mark.parametrize("kind", NAMES)
def test_alphabetical_is_torchvisions_order_and_natural_is_timms(tmp_path: Path, kind: str) -> None:
    write(tmp_path, NAMES[kind])
    torchvisions = ImageFolder(tmp_path).class_to_idx
    _, timms = find_images_and_targets(str(tmp_path))
    assert {name: i for i, name in enumerate(classes(tmp_path))} == torchvisions
    assert {name: i for i, name in enumerate(classes(tmp_path, class_order="natural"))} == timms


@pytest.mark.parametrize("kind", NAMES)
def test_it_is_said_where_the_two_orders_differ(tmp_path: Path, kind: str) -> None:
    write(tmp_path, NAMES[kind])
    notes = [note for note in list_image_folder(ImageFolderConfig(folder=str(tmp_path))).notes if "orders" in note]
    assert len(notes) == (kind not in ("words", "leading zeros"))
    assert all("alphabetical as in torchvision (" in note and "natural as in timm (" in note for note in notes)


def test_the_difference_is_shown_where_it_begins(tmp_path: Path) -> None:
    write(tmp_path, NAMES["numbers"])
    (note,) = list_image_folder(ImageFolderConfig(folder=str(tmp_path))).notes
    assert "torchvision (0, 1, 10, 11, ...)" in note
    assert "timm (0, 1, 2, 3, ...)" in note


def test_the_order_numbers_the_labels_and_moves_no_image(tmp_path: Path) -> None:
    write(tmp_path, ["0", "1", "10", "2"])
    alphabetical, natural = (
        list_image_folder(ImageFolderConfig(folder=str(tmp_path), class_order=order))
        for order in ("alphabetical", "natural")
    )
    assert alphabetical.train == natural.train == ["0/1.png", "1/1.png", "10/1.png", "2/1.png"]
    assert alphabetical.train_labels == [0, 1, 2, 3]
    assert natural.train_labels == [0, 1, 3, 2]


MAPS: dict[str, str] = {
    "json of names": '{"dog": 0, "cat": 2, "eel": 1}',
    "json of indices": '{"0": "dog", "1": "eel", "2": "cat"}',
    "json list": '["dog", "eel", "cat"]',
    "names": "dog\neel\ncat\n",
    "windows lines": "\ufeffdog\r\neel\r\ncat\r\n",
    "index first": "0,dog\n1,eel\n2,cat\n",
    "name first": "dog,0\neel,1\ncat,2\n",
    "with a header": "name,index\ncat,2\ndog,0\neel,1\n",
    "tabs": "dog\t0\neel\t1\ncat\t2",
    "semicolons and quotes": '"dog";0\n"eel";1\n"cat";2\n',
}


@pytest.mark.parametrize("kind", MAPS)
def test_a_map_numbers_the_folders(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "data", ["cat", "dog", "eel"])
    (tmp_path / "map").write_text(MAPS[kind], encoding="utf-8", newline="")
    found = list_image_folder(ImageFolderConfig(folder=str(tmp_path / "data"), class_map=str(tmp_path / "map")))
    assert found.class_names == ("dog", "eel", "cat")
    assert found.train_labels == [2, 0, 1]


def test_a_map_may_have_classes_without_a_folder_and_test_classes_that_the_training_lacks(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train", ["cat", "dog"])
    write(tmp_path / "data" / "test", ["cat", "eel"])
    (tmp_path / "map").write_text("ant\ncat\ndog\neel\n")
    found = list_image_folder(ImageFolderConfig(folder=str(tmp_path / "data"), class_map=str(tmp_path / "map")))
    assert (len(found.class_names), found.train_labels, found.test_labels) == (4, [1, 2], [1, 3])


WRONG: dict[str, tuple[str | bytes, str]] = {
    "a folder that is not named": ('["dog", "eel"]', "has the folders cat, which dataset.class_map="),
    "an index twice": ('{"dog": 0, "cat": 0, "eel": 1}', "gives dog and cat the same index 0"),
    "a name twice": ("dog\ndog\ncat\n", "names dog twice"),
    "a json name twice": ('{"dog": 0, "dog": 1, "cat": 2}', "names dog twice"),
    "counted from 1": ("dog,1\ncat,2\neel,3\n", "gives eel the index 3, but its 3 classes count from 0 to 2"),
    "negative": ('{"dog": -1, "cat": 0, "eel": 1}', "the index -1"),
    "no indices": ("dog,x\ncat,y\n", "has no column of indices"),
    "two columns of numbers": ("5,0\n7,1\n", "two columns of numbers"),
    "three columns": ("dog,0,x\ncat,1,y\n", "a line of 3 columns"),
    "broken json": ('{"dog": 0,', "is no valid JSON"),
    "nested json": ('{"dog": {"x": 1}}', "must hold"),
    "empty": ("", "names 0 classes"),
    "bytes": (b"\xff\xfe\x00dog", "is no text"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_map_that_does_not_fit_is_refused(tmp_path: Path, kind: str) -> None:
    content, message = WRONG[kind]
    write(tmp_path / "data", ["cat", "dog", "eel"])
    (tmp_path / "map").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        classes(tmp_path / "data", class_map=str(tmp_path / "map"))
    assert message in str(error.value)


def test_a_map_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"dataset\.class_map=/nowhere cannot be read: No such file"):
        read_class_map("/nowhere")
