"""Folders as torchvision reads them: nested, linked, in any case; what is left out is counted or refused."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from rnet.data.config import ImageFolderConfig
from rnet.data.files.digest import looked_at_once
from rnet.data.files.image_folder import list_image_folder
from rnet.data.files.suffixes import decodable_formats, image_suffixes
from rnet.data.loading import load_dataset, load_dataset_once
from rnet.errors import UserError

E_ACUTE, E_AND_ACUTE = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(folder: Path) -> Any:
    return list_image_folder(ImageFolderConfig(folder=str(folder)))


PLAIN = ("a/1.png", "a/2.png", "b/1.png")

READ: dict[str, tuple[tuple[str, ...], list[str], list[str] | None]] = {
    "a folder per class": (PLAIN, list(PLAIN), None),
    "sub-folders": (("a/1.png", "a/s/2.png", "a/s/t/3.png", "b/1.png"),
                    ["a/1.png", "a/s/2.png", "a/s/t/3.png", "b/1.png"], None),
    "suffixes in any case": (("a/1.JPEG", "a/2.Png", "b/1.jfif", "b/2.TIF", "b/3.avif", "b/4.webp"),
                             ["a/1.JPEG", "a/2.Png", "b/1.jfif", "b/2.TIF", "b/3.avif", "b/4.webp"], None),
    "train and test": (("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"),
                       ["train/a/1.png", "train/b/1.png"], ["test/a/1.png", "test/b/1.png"]),
    "Training and Testing": (("Training/a/1.png", "Training/b/1.png", "Testing/a/1.png", "Testing/b/1.png"),
                             ["Training/a/1.png", "Training/b/1.png"], ["Testing/a/1.png", "Testing/b/1.png"]),
    "TRAIN and valid": (("TRAIN/a/1.png", "TRAIN/b/1.png", "valid/a/1.png", "valid/b/1.png"),
                        ["TRAIN/a/1.png", "TRAIN/b/1.png"], ["valid/a/1.png", "valid/b/1.png"]),
    "train and Validation": (("train/a/1.png", "train/b/1.png", "Validation/a/1.png", "Validation/b/1.png"),
                             ["train/a/1.png", "train/b/1.png"], ["Validation/a/1.png", "Validation/b/1.png"]),
    "test before val": (
        ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/a/2.png", "test/b/2.png"),
        ["train/a/1.png", "train/b/1.png"], ["test/a/2.png", "test/b/2.png"]),
    "train alone": (("train/a/1.png", "train/b/1.png"), ["train/a/1.png", "train/b/1.png"], None),
    "a class called train": (
        ("bus/1.png", "car/1.png", "train/1.png"), ["bus/1.png", "car/1.png", "train/1.png"], None),
    "what systems leave": (
        (*PLAIN, "a/.DS_Store", "a/._1.png", "a/Thumbs.db", "__MACOSX/a/1.png", "b/@eaDir/1.png", ".git/1.png"),
        list(PLAIN), None),
    "spaces and signs": (("a b/1 2.png", "c=[d]/x,y.png"), ["a b/1 2.png", "c=[d]/x,y.png"], None),
    "a line break": (("a\nb/1.png", "c/1.png"), ["a\nb/1.png", "c/1.png"], None),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_images_are_found(tmp_path: Path, kind: str) -> None:
    files, train, test = READ[kind]
    touch(tmp_path, *files)
    found = listed(tmp_path)
    assert (found.train, found.test) == (train, test)


def test_nested_folders_are_read_in_torchvisions_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/z.png", "b/s 1/y.png", "b/s/x.png", "b/s/t/a.png", "a/1.png", "a/10.png", "a/2.png")
    right = [
        (os.path.relpath(path, tmp_path), label) for path, label in ImageFolder(tmp_path, allow_empty=True).samples
    ]
    found = listed(tmp_path)
    assert list(zip(found.train, found.train_labels, strict=True)) == right


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "pool/x.png", "data/a/1.png", "data/b/1.png")
    os.symlink(tmp_path / "pool", tmp_path / "data" / "a" / "linked")
    os.symlink(tmp_path / "data" / "a", tmp_path / "data" / "a" / "circle")
    os.symlink(tmp_path / "data", tmp_path / "data" / "b" / "up")
    os.symlink(tmp_path / "data", tmp_path / "data" / "self")
    os.symlink(tmp_path / "pool", tmp_path / "data" / "c")
    assert listed(tmp_path / "data").train == ["a/1.png", "a/linked/x.png", "b/1.png", "c/x.png"]


def test_a_pipe_called_png_is_not_opened(tmp_path: Path) -> None:
    touch(tmp_path, *PLAIN)
    os.mkfifo(tmp_path / "a" / "3.png")
    found = listed(tmp_path)
    assert found.train == list(PLAIN)
    assert any("1 file" in note and "1 .png" in note for note in found.notes)


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    touch(tmp_path / "train", f"{E_ACUTE}/1.png", "a/1.png")
    touch(tmp_path / "test", f"{E_AND_ACUTE}/1.png", "a/1.png")
    found = listed(tmp_path)
    assert found.class_names == ("a", E_ACUTE)
    assert found.test_labels == [0, 1]
    touch(tmp_path / "train", f"{E_AND_ACUTE}/2.png")
    with pytest.raises(UserError, match="spelt in different Unicode forms"):
        listed(tmp_path)


NOTED: dict[str, tuple[tuple[str, ...], str]] = {
    "other files": ((*PLAIN, "a/x.txt", "a/y.TXT", "b/z.pdf", "readme"),
                    "4 files of {} left out: 2 .txt, 1 .pdf, 1 without suffix"),
    "other and hidden files": ((*PLAIN, "a/x.txt", ".DS_Store"), "1 .txt (and 1 hidden or of the system)"),
    "files that Pillow cannot decode": ((*PLAIN, "a/x.eps", "a/y.svg"), "1 .eps, 1 .svg"),
    "images beside the classes": ((*PLAIN, "loose.png"), "1 image of {} left out, in no class folder"),
    "several tests": (("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/a/2.png", "test/b/2.png"),
                      "of the folders test, val, test is read and the others are not"),
    "other folders": (
        ("train/a/1.png", "train/b/1.png", "extra/a/1.png"), "beside train, the folders extra are not read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOTED)
def test_what_is_left_out_is_counted_and_said(tmp_path: Path, kind: str) -> None:
    files, note = NOTED[kind]
    touch(tmp_path, *files)
    assert any(note.format(tmp_path) in text for text in listed(tmp_path).notes)


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing": ((), "has 0 class folders"),
    "one class": (("a/1.png",), "has 1 class folder; it needs a folder of images for each of 2 or more"),
    "no classes": (
        ("1.png", "2.png"), "2 images outside of class folders (1.png and 1 more), of unknown classes"),
    "a flat val": (("train/a/1.png", "train/b/1.png", "val/1.JPEG"),
                   "or move val elsewhere to have test images split off"),
    "test without train": (("test/a/1.png", "test/b/1.png"), "has a folder test but no folder train; add it"),
    "an empty class": (("a/1.png", "b/x.txt"), "b holds no image that can be decoded here (but 1 .txt)"),
    "an unknown test class": (("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"), "c; rename them"),
    "a broken link": (PLAIN, "1 file of the images cannot be read (No such file or directory): a/broken.png"),
    "empty files": (PLAIN, "3 of 3 image files cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_as_classes_is_refused_with_a_remedy(tmp_path: Path, kind: str) -> None:
    files, message = REFUSED[kind]
    touch(tmp_path, *files)
    if kind == "a broken link":
        os.symlink("nowhere", tmp_path / "a" / "broken.png")
    with pytest.raises(UserError) as error:
        load_dataset_once(ImageFolderConfig(folder=str(tmp_path), image_size=8, substitute_pool=1))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_suffixes_are_those_of_every_format_that_pillow_decodes_here() -> None:
    assert {".png", ".jpg", ".jpe", ".jfif", ".tiff", ".webp", ".bmp", ".ppm", ".gif", ".jp2"} <= image_suffixes()
    assert not {".eps", ".mpg", ".h5", ".grib", ".pdf", ".svg", ".txt"} & image_suffixes()
    assert set(decodable_formats()) <= set(Image.OPEN)


def test_notes_are_said_when_the_images_are_loaded(
    tmp_path: Path, write_image: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(12):
        write_image(tmp_path / "ab"[i % 2] / f"{i}.png", i)
    touch(tmp_path, "a/notes.txt")
    with caplog.at_level(logging.WARNING):
        load_dataset(ImageFolderConfig(folder=str(tmp_path), image_size=8, substitute_pool=3))
    assert [text for text in caplog.messages if "left out" in text] == [f"1 file of {tmp_path} left out: 1 .txt"]


def test_names_that_are_no_unicode_are_read_and_named(tmp_path: Path, write_image: Callable[..., None]) -> None:
    odd = os.fsdecode(b"caf\xe9")  # Latin-1
    for i in range(12):
        write_image(tmp_path / "images" / ("a", odd)[i % 2] / f"{i}{odd}.png", i)
    config = ImageFolderConfig(folder=str(tmp_path / "images"), image_size=8, substitute_pool=3)
    (tmp_path / "store").mkdir()
    for _ in range(2):
        with looked_at_once(tmp_path / "store"):
            dataset = load_dataset_once(config)
    assert dataset.class_names == ("a", odd)
    (tmp_path / "images" / odd / f"1{odd}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"the file is empty") as error:
        load_dataset(config)
    assert str(error.value).encode("ascii").decode().isprintable()
