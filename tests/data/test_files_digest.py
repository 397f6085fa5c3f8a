"""The digest follows the content of a data set's files: not their place or times, but every pixel and name."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rnet.config.documents import content_id
from rnet.config.run import load_config
from rnet.data.config import DigitsConfig, ImageFolderConfig
from rnet.data.files import digest
from rnet.data.files.digest import change_of, look_at, looked_at_once, remember_looks
from rnet.errors import UserError
from rnet.stages.graph import document

OLD = 1_600_000_000_000_000_000


@pytest.fixture
def images(tmp_path: Path, write_image: Callable[..., None]) -> Path:
    """Twelve images of two classes, changed long ago."""
    for i in range(12):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        write_image(path, i)
        os.utime(path, ns=(OLD, OLD))
    return tmp_path / "images"


def id_of(folder: Path | str, *overrides: str) -> str:
    lines = ["dataset=image_folder", f"dataset.folder={folder}", "dataset.image_size=8", *overrides]
    return content_id(document("train", load_config(lines)))


def sha(folder: Path, **settings: Any) -> str:
    look = look_at(ImageFolderConfig(folder=str(folder), **settings))
    assert look is not None
    return look.sha256


def linked(images: Path) -> Path:
    (images.parent / "link").symlink_to(images)
    return images.parent / "link"


def copied(images: Path) -> Path:
    return Path(shutil.copytree(images, images.parent / "copy"))


def of_links(images: Path) -> Path:
    for path in images.rglob("*.png"):
        other = images.parent / "links" / path.relative_to(images)
        other.parent.mkdir(parents=True, exist_ok=True)
        other.symlink_to(path)
    return images.parent / "links"


def touched(images: Path) -> Path:
    os.utime(images / "a" / "0.png")
    return images


def with_system_files(images: Path) -> Path:
    (images / ".DS_Store").write_bytes(b"x")
    (images / "a" / "Thumbs.db").write_bytes(b"x")
    (images / "a" / "notes.txt").write_bytes(b"x")
    return images


SAME: dict[str, Callable[[Path], Path | str]] = {
    "relative": lambda images: os.path.relpath(images),
    "a trailing slash": lambda images: f"{images}/",
    "a detour": lambda images: f"{images}/a/..",
    "through the home folder": lambda images: "~/images",
    "a symbolic link": linked,
    "a copy": copied,
    "a folder of links": of_links,
    "other times": touched,
    "files that are not read": with_system_files,
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_images_have_one_id(images: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("HOME", str(images.parent))
    monkeypatch.chdir(images.parent)
    before = id_of(images)
    assert id_of(SAME[kind](images)) == before


def one_pixel(images: Path, write_image: Any) -> None:
    from PIL import Image

    path = images / "a" / "0.png"
    image = Image.open(path).copy()
    red, green, blue = image.getpixel((3, 4))  # type: ignore[misc]
    image.putpixel((3, 4), (red ^ 1, green, blue))
    image.save(path)


def same_size_and_times(images: Path, write_image: Any) -> None:
    path = images / "a" / "0.png"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(OLD, OLD))


def deeper(images: Path, write_image: Any) -> None:
    (images / "a" / "s").mkdir()
    (images / "a" / "0.png").rename(images / "a" / "s" / "0.png")


OTHER: dict[str, Callable[[Path, Any], object]] = {
    "one pixel": one_pixel,
    "content of the same size at the same time": same_size_and_times,
    "one file more": lambda images, write: write(images / "a" / "new.png", 99),
    "one file less": lambda images, write: (images / "a" / "0.png").unlink(),
    "another file name": lambda images, write: (images / "a" / "0.png").rename(images / "a" / "z.png"),
    "another class name": lambda images, write: (images / "a").rename(images / "c"),
    "another class": lambda images, write: (images / "a" / "0.png").rename(images / "b" / "0.png"),
    "a deeper folder": deeper,
    "swapped classes": lambda images, write: [(images / x).rename(images / y) for x, y in ("ax", "ba", "xb")],
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER)
def test_other_images_have_another_id(images: Path, write_image: Any, kind: str) -> None:
    before = id_of(images)
    OTHER[kind](images, write_image)
    assert id_of(images) != before


def test_names_are_compared_in_composed_form(tmp_path: Path, write_image: Any) -> None:
    for form in ("NFC", "NFD"):
        for name in ("caf\u00e9", "b"):
            write_image(tmp_path / form / unicodedata.normalize(form, name) / "1.png", len(name))
    assert sha(tmp_path / "NFC") == sha(tmp_path / "NFD")


def test_the_path_is_no_part_of_the_document_and_the_digest_is(images: Path) -> None:
    lines = ["dataset=image_folder", f"dataset.folder={images}", "dataset.image_size=8"]
    found = document("train", load_config(lines))["dataset"]
    assert str(images) not in json.dumps(found)
    assert (found["digest"], found["files_sha256"]) == ("content", sha(images))
    assert {"digest", "files_sha256"}.isdisjoint(document("train", load_config([]))["dataset"])


def test_a_listing_is_of_names_sizes_and_times(images: Path) -> None:
    content, listing = sha(images), sha(images, digest="listing")
    assert content != listing
    assert sha(copied(images), digest="listing") == listing  # copytree keeps times
    os.utime(images / "a" / "0.png", ns=(OLD, OLD + 1))
    assert sha(images, digest="listing") != listing
    assert sha(images) == content


def test_auto_reads_content_up_to_a_size_and_says_when_it_does_not(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content, listing = sha(images), sha(images, digest="listing")
    total = sum(path.stat().st_size for path in images.rglob("*.png"))
    monkeypatch.setattr(digest, "CONTENT_UP_TO", total)
    assert sha(images) == content
    monkeypatch.setattr(digest, "CONTENT_UP_TO", total - 1)
    monkeypatch.setattr(digest, "_read_before", {})
    with caplog.at_level(logging.WARNING):
        assert sha(images) == listing
    assert any("by names, sizes and times; dataset.digest=content reads them all" in text for text in caplog.messages)
    assert sha(images, digest="content") == content


def test_auto_and_content_are_one_id(images: Path) -> None:
    assert id_of(images) == id_of(images, "dataset.digest=content") != id_of(images, "dataset.digest=listing")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, as they are."""
    found: list[str] = []
    original = digest._read

    def read(path: str, state: Any) -> Any:
        found.append(os.path.basename(path))
        return original(path, state)

    monkeypatch.setattr(digest, "_read", read)
    monkeypatch.setattr(digest, "_SETTLED_NS", -(10**18))  # as if the files had been left alone for long
    return found


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process begins."""
    monkeypatch.setattr(digest, "_read_before", {})


def test_a_store_spares_reading_files_that_have_not_changed(
    images: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    root.mkdir()

    def look() -> str:
        forget(monkeypatch)
        with looked_at_once(root):
            return sha(images)

    first = look()
    assert len(reads) == 12
    assert look() == first
    assert len(reads) == 12
    (images / "a" / "0.png").write_bytes((images / "b" / "1.png").read_bytes())
    assert look() != first
    assert reads[12:] == ["0.png"]


RECORDS: dict[str, Callable[[str], str]] = {
    "another digit": lambda text: re.sub(r'(?<=")[0-9a-f]{64}(?=",)', "0" * 64, text, count=1),
    "no digest of its own": lambda text: json.dumps({"folder": "x", "files": 5}),
    "a list": lambda text: "[]",
    "cut off": lambda text: text[:100],
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_damaged_record_is_set_aside_and_the_files_are_read_again(
    case: str, images: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    root.mkdir()
    with looked_at_once(root):
        first = sha(images)
    (record,) = (root / "seen").glob("*.json")
    record.write_text(RECORDS[case](record.read_text()))
    forget(monkeypatch)
    with looked_at_once(root):
        assert sha(images) == first
    assert len(reads) == 24
    assert record.with_name(f"{record.name}.damaged").exists()


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(OSError, match="no regular file"):
        digest._state(str(tmp_path / "0.png"))


def test_a_file_that_has_just_changed_is_read_again(images: Path, reads: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(digest, "_SETTLED_NS", 10**18)
    sha(images)
    sha(images)
    assert len(reads) == 24


def test_nothing_is_written_before_the_store_exists_or_without_one(images: Path, tmp_path: Path) -> None:
    with looked_at_once(tmp_path / "none"):
        sha(images)
    sha(images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_a_store_that_may_only_be_read_is_left_as_it_is(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    root.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(
        "rnet.data.files.records.write_information", lambda *a, **k: (_ for _ in ()).throw(UserError("no"))
    )
    with looked_at_once(root):
        assert len(sha(images)) == 64
    assert not list(root.iterdir())


CHANGES: dict[str, tuple[Callable[[Path, Any], object], str]] = {
    "added": (lambda images, write: write(images / "a" / "new.png", 99), "1 file added (a/new.png)"),
    "removed": (lambda images, write: (images / "a" / "0.png").unlink(), "1 file removed (a/0.png)"),
    "other content": (lambda images, write: write(images / "a" / "0.png", 99), "1 file with other content (a/0.png)"),
    "many": (lambda images, write: [write(images / "a" / f"n{i}.png", i) for i in range(5)],
             "5 files added (a/n0.png, a/n1.png, a/n2.png and 2 more)"),
    "renamed": (lambda images, write: (images / "a" / "0.png").rename(images / "a" / "z.png"),
                "1 file added (a/z.png), 1 file removed (a/0.png)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_what_has_changed_since_the_store_saw_it_is_said(
    images: Path, tmp_path: Path, write_image: Any, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    change, words = CHANGES[kind]
    root = tmp_path / "store"
    root.mkdir()
    with looked_at_once(root):
        sha(images)
    change(images, write_image)
    for said in (1, 0):  # once
        caplog.clear()
        with caplog.at_level(logging.WARNING), looked_at_once(root):
            sha(images)
        assert (
            sum(f"has changed since this store saw it last: {words}; ids follow" in t for t in caplog.messages) == said
        )


def test_within_one_look_ids_agree_and_a_change_is_seen_when_it_is_asked_for(images: Path, write_image: Any) -> None:
    config = ImageFolderConfig(folder=str(images))
    with looked_at_once():
        first = look_at(config)
        assert change_of(config) is None
        write_image(images / "a" / "0.png", 99)
        assert look_at(config) is first
        assert change_of(config) == "1 file with other content (a/0.png)"
    assert look_at(config) != first
    with looked_at_once():
        assert change_of(DigitsConfig()) is None


def test_what_was_seen_can_be_written_before_the_store_exists(images: Path, tmp_path: Path, write_image: Any) -> None:
    with looked_at_once(tmp_path / "store"):
        sha(images)
        remember_looks(tmp_path / "store")
    write_image(images / "a" / "0.png", 99)
    with looked_at_once(tmp_path / "store", keep=False):
        look = look_at(ImageFolderConfig(folder=str(images)))
    assert look is not None
    assert look.changed == "1 file with other content (a/0.png)"


def test_several_processes_leave_one_whole_record(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    found: list[str] = []

    def look() -> None:
        with looked_at_once(root):
            found.append(sha(images))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    (record,) = (root / "seen").glob("*.json")
    assert len(json.loads(record.read_text())["files"]) == 12
    assert not list((root / "seen").glob("*.tmp"))


def test_a_plugin_names_its_files_by_an_attribute(
    images: Path, monkeypatch: pytest.MonkeyPatch, write_image: Any
) -> None:
    from tests.data import test_loading

    monkeypatch.setattr(test_loading.load_colour, "files", lambda config: (images, ["a/0.png"]), raising=False)
    config = test_loading.colour()
    before = look_at(config)
    write_image(images / "b" / "1.png", 99)
    assert look_at(config) == before
    write_image(images / "a" / "0.png", 99)
    after = look_at(config)
    assert before is not None
    assert after is not None
    assert after.sha256 != before.sha256


@pytest.mark.parametrize("name", ["cifar10", "gtsrb", "celeba", "lfw"])
def test_a_set_that_is_not_there_is_refused_when_its_id_is_made(tmp_path: Path, name: str) -> None:
    config = load_config([f"dataset={name}", f"dataset.folder={tmp_path}"])
    with pytest.raises(UserError, match=rf"dataset={name} was not found in .*dataset\.download=true"):
        document("train", config)


def test_only_files_that_are_read_count_in_published_sets(tmp_path: Path) -> None:
    from tests.published_files import write_published

    write_published(tmp_path)
    data = tmp_path / ".cache" / "rnet" / "data"
    for name, place in (("cifar10", "cifar-10-batches-py"), ("gtsrb", "gtsrb/GTSRB/Training/00000"),
                        ("celeba", "celeba/img_align_celeba"), ("lfw", "lfw_funneled/Ann_Able")):  # fmt: skip
        config = load_config([f"dataset={name}", f"dataset.folder={data}"])
        before = document("train", config)
        (data / place / "readme.html").write_bytes(b"x")
        assert document("train", config) == before
        next(path for path in sorted((data / place).iterdir()) if path.suffix != ".html").write_bytes(b"x")
        assert document("train", config) != before
