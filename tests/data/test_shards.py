"""Tar shards: every sample once, at its place, with its label; what is damaged is named, or left out and counted."""

from __future__ import annotations

import io
import logging
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rnet.data.batches import TrainingBatches
from rnet.data.config import ImageFolderConfig
from rnet.data.datasets.config import WebDatasetConfig
from rnet.data.files.digest import look_at
from rnet.data.folder import FolderSource
from rnet.data.loading import load_dataset
from rnet.data.views import Views
from rnet.errors import UserError


def photograph(number: int, suffix: str) -> bytes:
    rough = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(rough).resize((30, 40)).save(out, "JPEG" if suffix == ".jpg" else "PNG")
    return out.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of twelve training images, one of four test images; the same images as files below tree/."""
    number = 0
    for shard, count in (("train-000.tar", 7), ("more/train-001.tar", 5), ("val-000.tar", 4)):
        files: dict[str, bytes] = {}
        for _ in range(count):
            suffix = ".jpg" if number % 3 else ".png"
            content, label = photograph(number, suffix), number % 3
            files |= {
                f"s/{number:04d}.json": b"{}",
                f"s/{number:04d}{suffix}": content,
                f"s/{number:04d}.cls": b"%d\n" % label,
            }
            place = tmp_path / "tree" / ("val" if shard.startswith("val") else "train") / str(label)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:04d}{suffix}").write_bytes(content)
            number += 1
        write_shard(tmp_path / "shards" / shard, files)
    return tmp_path / "shards"


def config(folder: Path, **changes: Any) -> WebDatasetConfig:
    values: dict[str, Any] = {"folder": str(folder), "image_size": 16, "substitute_pool": 2}
    return WebDatasetConfig(**{**values, **changes})


@pytest.mark.parametrize("max_memory_mb", [0, 10])
def test_shards_hold_the_images_and_labels_of_the_same_files_in_folders(folder: Path, max_memory_mb: int) -> None:
    found = load_dataset(config(folder, max_memory_mb=max_memory_mb))
    files = ImageFolderConfig(folder=str(folder.parent / "tree"), image_size=16, substitute_pool=2)
    expected = load_dataset(files)
    assert (found.num_classes, len(found.train), len(found.substitute), len(found.test)) == (3, 10, 2, 4)

    def content(dataset: Any, *parts: str) -> list[tuple[bytes, int]]:
        chosen = [getattr(dataset, name) for name in parts]
        return sorted(
            (image.numpy().tobytes(), int(label))
            for part in chosen
            for image, label in zip(part.fetch(torch.arange(len(part))), part.labels_N, strict=True)
        )

    assert content(found, "test") == content(expected, "test")
    assert content(found, "train", "substitute") == content(expected, "train", "substitute")
    assert isinstance(found.train.source, FolderSource) == (max_memory_mb == 0)


def test_training_takes_every_image_once_in_workers_of_two_processes(folder: Path) -> None:
    part = load_dataset(config(folder, max_memory_mb=0)).train
    settings: dict[str, Any] = {
        "batch_size": 2,
        "seed": 1,
        "flip": True,
        "device": "cpu",
        "views": Views(crop_scale=(0.5, 1)),
    }
    shares = [TrainingBatches(part, rank=r, world_size=2, workers=2, **settings) for r in range(2)]
    whole = TrainingBatches(part, **settings)
    seen = []
    for step in range(5):
        batches = [share(step) for share in shares]
        seen += torch.cat([batch.indices_B for batch in batches]).tolist()
        assert torch.equal(torch.cat([batch.x_BCHW for batch in batches]), whole(step).x_BCHW)
    assert sorted(seen) == list(range(10))


def test_ids_name_the_shards_and_not_what_is_beside_them(folder: Path) -> None:
    first = look_at(config(folder))
    assert first is not None
    assert sorted(first.files) == ["more/train-001.tar", "train-000.tar", "val-000.tar"]
    (folder / "README.md").write_text("about")
    (folder / "classes.txt").write_text("a\nb\nc\n")
    again = look_at(config(folder))
    assert again is not None
    assert sorted(again.files.keys() - first.files.keys()) == ["classes.txt"]
    assert load_dataset(config(folder)).class_names == ("a", "b", "c")


@pytest.mark.parametrize("kept", [9000, 9 * 1024, 9 * 1024 + 512, 10000])
def test_a_truncated_shard_is_named_or_read_as_far_as_it_goes(
    kept: int, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = folder / "train-000.tar"
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"1 shard of 3 damaged: .*/train-000\.tar ends too early.*damaged=skip"):
        load_dataset(config(folder))
    with caplog.at_level(logging.INFO):
        found = load_dataset(config(folder, damaged="skip"))
    assert 0 < len(found.train) + len(found.substitute) - 5 < 7
    assert "ends too early" in caplog.text


@pytest.mark.parametrize("max_memory_mb", [0, 10])
def test_damaged_images_are_named_or_left_out_and_counted(
    folder: Path, max_memory_mb: int, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(
        folder / "train-002.tar",
        {"a.jpg": photograph(90, ".jpg")[:300], "a.cls": b"1", "b.jpg": photograph(91, ".jpg"), "b.cls": b"2"},
    )
    with pytest.raises(UserError, match=r"train-002\.tar/a\.jpg cannot be read as an image"):
        load_dataset(config(folder, max_memory_mb=max_memory_mb))
    with caplog.at_level(logging.INFO):
        found = load_dataset(config(folder, max_memory_mb=max_memory_mb, damaged="skip"))
    assert len(found.train) + len(found.substitute) == 13
    assert "1 image file of 18 cannot be read and are in no part" in caplog.text
    found.train.fetch(torch.arange(len(found.train)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.jpg": photograph(1, ".jpg")},
            r"has 1 images without a label, e\.g\. of the sample a; write .* a\.cls",
        ),
        ({"a.jpg": photograph(1, ".jpg"), "a.cls": b"cat"}, r"a\.cls holds 'cat', not the number of a class"),
        ({"a.jpg": photograph(1, ".jpg"), "a.cls": b"-1"}, "not the number of a class"),
        ({"a.jpg": b"", "a.png": b"", "a.cls": b"1"}, "holds two images of the sample a; keep one"),
        ({"a.jpg": b"", "a.cls": b"1", "./a.cls": b"2"}, "holds two labels of the sample a; keep one"),
        (
            {"a.v1.jpg": b"", "a.v1.cls": b"1"},
            r"no image of the shards of .* is read, e\.g\. .*/a\.v1\.jpg: .* first dot",
        ),
        ({"a.cls": b"1", "__MACOSX/b.jpg": b""}, r"hold no training image with a label: train\.tar"),
        ({}, r"hold no training image with a label: train\.tar"),
        ({"a.jpg": b"", "a.cls": b"20261127"}, r"a\.jpg has the label 20261127; labels number the classes from 0 on"),
    ],
)
def test_samples_that_cannot_be_trained_on_are_named(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "train.tar", files)
    with pytest.raises(UserError, match=message):
        load_dataset(config(tmp_path))


def test_what_is_left_out_of_good_shards_is_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(folder / "train-000.tar", "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "s/0001.jpg"
        tar.addfile(link)
    write_shard(
        folder / "train-002.tar",
        {
            "a.jpg": photograph(90, ".jpg"),
            "a.cls": b"4",
            "a.seg.png": b"",
            "b.cls": b"1",
            "c.v1.jpg": b"",
            "c.cls": b"1",
        },
    )
    found = load_dataset(config(folder))
    assert (found.num_classes, len(found.train) + len(found.substitute)) == (5, 13)
    assert re.search(r"2 image files of the shards left out: .*/link\.jpg, .*/c\.v1\.jpg: what comes", caplog.text)
    assert re.search(r"1 label of the shards without an image: .*/b\.cls$", caplog.text, re.MULTILINE)
    assert "no training image has the label 3, although labels go from 0 to 4" in caplog.text


def test_shards_behind_links_and_of_any_case_are_read_once(folder: Path) -> None:
    (folder / "more" / "train-001.tar").rename(folder / "more" / "train-001.TAR")
    (folder / "more").rename(folder.parent / "elsewhere")
    for name in ("first", "second"):
        (folder / name).symlink_to(folder.parent / "elsewhere")
    (folder / "around").symlink_to(folder)
    found = load_dataset(config(folder))
    assert len(found.train) + len(found.substitute) == 12
    (folder / "train-002.tar").symlink_to(folder / "none.tar")
    with pytest.raises(UserError, match=r"train-002\.tar cannot be read: No such file or directory"):
        load_dataset(config(folder))


def test_shards_that_are_damaged_from_their_beginning_or_hold_two_archives_are_damaged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = folder / "train-000.tar"
    first.write_bytes(first.read_bytes() + (folder / "more" / "train-001.tar").read_bytes())
    (folder / "train-002.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 shards of 4 damaged: .*more comes behind it\); .*no tar file .*empty file"):
        load_dataset(config(folder))
    found = load_dataset(config(folder, damaged="skip"))
    assert len(found.train) + len(found.substitute) == 12
    assert "of its samples 0 are read" in caplog.text
    with tarfile.open(folder / "train-002.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"train-002\.tar is compressed"):
        load_dataset(config(folder, damaged="skip"))


def test_folders_without_shards_are_refused_with_the_remedy(tmp_path: Path) -> None:
    for wanted, message in [
        (None, "needs dataset.folder"),
        (str(tmp_path / "none"), "is not a folder"),
        (str(tmp_path), "holds compressed shards, .*: train.tar.gz; unpack them"),
    ]:
        (tmp_path / "train.tar.gz").touch()
        with pytest.raises(UserError, match=message):
            load_dataset(WebDatasetConfig(folder=wanted, image_size=16))
    (tmp_path / "train.tar.gz").rename(tmp_path / "train.tar")
    (tmp_path / "train.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(UserError, match=r"train\.tar is no tar file that can be read"):
        load_dataset(config(tmp_path))


def test_a_header_that_tarfile_cannot_count_with_is_damage(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        about = tarfile.TarInfo("a.jpg")
        about.pax_headers = {"comment": "x" * 100}
        tar.addfile(about)
    content = (tmp_path / "train.tar").read_bytes()
    (tmp_path / "train.tar").write_bytes(content.replace(b"113 comment=" + b"x" * 20, b"9" * 25 + b" comm=x", 1))
    with pytest.raises(UserError, match=r"train\.tar is no tar file that can be read"):
        load_dataset(config(tmp_path))
