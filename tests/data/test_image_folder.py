"""image_folder: the user's own images in memory and decoded on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rnet.data.config import ImageFolderConfig
from rnet.data.folder import FolderSource
from rnet.data.images import Part, TensorSource
from rnet.data.loading import load_dataset
from rnet.data.resize import decode_image
from rnet.errors import UserError


def config(images: Path, **changes: Any) -> ImageFolderConfig:
    values = {"name": "image_folder", "folder": str(images), "image_size": 6, "substitute_pool": 4}
    return ImageFolderConfig(**{**values, **changes})


def write_classes(
    folder: Path, write_image: Any, counts: dict[str, int], suffix: str = ".png"
) -> list[tuple[str, int]]:
    """Files a/0.png, a/1.png, ... for every class; returns (path, label) in the order of the classes' names."""
    files = []
    for label, name in enumerate(sorted(counts)):
        for i in range(counts[name]):
            path = folder / name / f"{i}{suffix}"
            write_image(path, 1000 * label + i)
            files.append((str(path), label))
    return files


def check(part: Part, files: list[tuple[str, int]]) -> None:
    found = part.fetch(torch.arange(len(part)))
    for i, position in enumerate(part.positions_N.tolist()):
        path, label = files[position]
        assert part.labels_N[i].item() == label
        assert torch.equal(found[i], decode_image(path, 6, 3))


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_official_test_images_are_kept(tmp_path: Path, write_image: Any, test_name: str) -> None:
    train = write_classes(tmp_path / "train", write_image, {"dog": 5, "cat": 4, "ant": 3})
    # The test lacks the class "ant": labels must not shift.
    test = write_classes(tmp_path / test_name, write_image, {"dog": 2, "cat": 3}, ".JPEG")
    dataset = load_dataset(config(tmp_path))
    assert (len(dataset.train), len(dataset.substitute), len(dataset.test)) == (8, 4, 5)
    assert (dataset.num_classes, dataset.channels, dataset.image_size, dataset.flip) == (3, 3, 6, True)
    check(dataset.train, train)
    check(dataset.substitute, train)
    check(dataset.test, [(path, label + 1) for path, label in test])


@pytest.mark.parametrize("below", ["", "train"])
def test_without_test_images_a_fifth_is_split_off(tmp_path: Path, write_image: Any, below: str) -> None:
    files = write_classes(tmp_path / below, write_image, {"a": 6, "b": 9})
    dataset = load_dataset(config(tmp_path))
    positions = [p for part in (dataset.train, dataset.substitute, dataset.test) for p in part.positions_N.tolist()]
    assert sorted(positions) == list(range(15))
    assert len(dataset.test) == 3
    for part in (dataset.train, dataset.substitute, dataset.test):
        check(part, files)


@pytest.mark.parametrize("grayscale", [False, True])
def test_decoding_on_demand_gives_the_same_dataset_as_keeping_it_in_memory(
    tmp_path: Path, write_image: Any, grayscale: bool
) -> None:
    write_classes(tmp_path / "train", write_image, {"a": 7, "b": 6})
    write_classes(tmp_path / "test", write_image, {"a": 2, "b": 2}, ".ppm")
    kept = load_dataset(config(tmp_path, grayscale=grayscale))
    on_demand = load_dataset(config(tmp_path, grayscale=grayscale, max_memory_mb=0))
    assert isinstance(kept.train.source, TensorSource)
    assert isinstance(on_demand.train.source, FolderSource)
    assert (kept.mean_C, kept.std_C, kept.channels) == (on_demand.mean_C, on_demand.std_C, on_demand.channels)
    for name in ("train", "substitute", "test"):
        one, other = getattr(kept, name), getattr(on_demand, name)
        assert torch.equal(one.labels_N, other.labels_N)
        assert torch.equal(one.pixels(), other.pixels())
        backwards = torch.arange(len(one)).flip(0)
        assert torch.equal(one.fetch(backwards), other.fetch(backwards))


def test_the_memory_limit_is_in_mebibytes_of_decoded_pixels(tmp_path: Path, write_image: Any) -> None:
    write_classes(tmp_path, write_image, {"a": 7, "b": 7})
    # 14 images of 3 * 160 * 160 bytes are 1.03 MiB.
    assert isinstance(load_dataset(config(tmp_path, image_size=160, max_memory_mb=1)).train.source, FolderSource)
    assert isinstance(load_dataset(config(tmp_path, image_size=160, max_memory_mb=2)).train.source, TensorSource)


def test_fetching_nothing_on_demand_keeps_the_shape() -> None:
    assert FolderSource(["never read"], 6, 3).fetch(torch.arange(0)).shape == (0, 3, 6, 6)


@pytest.mark.parametrize("max_memory_mb", [0, 100])
def test_a_damaged_image_is_named(tmp_path: Path, write_image: Any, max_memory_mb: int) -> None:
    write_classes(tmp_path, write_image, {"a": 6, "b": 6})
    (tmp_path / "b" / "3.png").write_bytes(b"\x89PNG but no more")

    def read_all() -> None:
        dataset = load_dataset(config(tmp_path, max_memory_mb=max_memory_mb))
        for part in (dataset.train, dataset.substitute, dataset.test):
            part.pixels()

    with pytest.raises(UserError, match=r"b/3\.png cannot be read as an image"):
        read_all()


def test_hidden_files_and_files_that_are_no_images_are_left_out(tmp_path: Path, write_image: Any) -> None:
    write_classes(tmp_path, write_image, {"a": 6, "b": 6})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "._0.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    dataset = load_dataset(config(tmp_path))
    assert (dataset.num_classes, len(dataset.train) + len(dataset.substitute) + len(dataset.test)) == (2, 12)


def test_wrong_folders_are_refused_with_a_remedy(tmp_path: Path, write_image: Any) -> None:
    def message(**changes: Any) -> str:
        with pytest.raises(UserError) as error:
            load_dataset(config(tmp_path, **changes))
        return str(error.value)

    assert "needs dataset.folder" in message(folder=None)
    assert "nowhere' is not a folder" in message(folder="nowhere")
    assert "has 0 class folders" in message()
    write_classes(tmp_path / "test", write_image, {"a": 2, "b": 2})
    assert "has a folder test but no folder train" in message()
    write_classes(tmp_path / "train", write_image, {"a": 8, "c": 8})
    assert "has classes that" in message()
    assert "b; rename" in message()
    (tmp_path / "train" / "b").mkdir()
    assert "train/b holds no image" in message()
    write_image(tmp_path / "train" / "b" / "0.png", 0)
    assert "image_size=0: the images of dataset=image_folder differ" in message(image_size=0)
    assert load_dataset(config(tmp_path)).num_classes == 3
