"""Every file is looked at before anything is trained, also where images are decoded on demand, and once for a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rnet.data import decoding
from rnet.data.config import ImageFolderConfig
from rnet.data.files.digest import looked_at_once
from rnet.data.folder import FolderSource
from rnet.data.images import TensorSource
from rnet.data.loading import load_dataset, load_dataset_once
from rnet.errors import UserError

WriteImage = Callable[..., None]


@pytest.fixture
def images(tmp_path: Path, write_image: WriteImage) -> Path:
    """Twenty images of two classes."""
    for i in range(20):
        write_image(tmp_path / "images" / "ab"[i % 2] / f"{i}.png", i)
    return tmp_path / "images"


def config(images: Path, **changes: Any) -> ImageFolderConfig:
    return ImageFolderConfig(**{"folder": str(images), "image_size": 8, "substitute_pool": 3, **changes})


def damage(images: Path, *names: str) -> None:
    for name in names:
        path = images / name
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("max_memory_mb", [0, 100])
def test_damaged_files_are_counted_and_the_first_three_named(images: Path, max_memory_mb: int) -> None:
    damage(images, "a/0.png", "a/2.png", "b/1.png", "b/19.png")
    (images / "a" / "4.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        load_dataset(config(images, max_memory_mb=max_memory_mb))
    message = str(error.value)
    assert message.startswith("5 of 20 image files cannot be read: ")
    assert f"{images}/a/0.png cannot be read as an image (" in message
    assert message.endswith("; and 2 more; dataset.damaged=skip leaves them out")
    assert "\n" not in message


@pytest.mark.parametrize("max_memory_mb", [0, 100])
def test_one_damaged_file_is_named_alone(images: Path, max_memory_mb: int) -> None:
    (images / "b" / "3.png").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"/b/3\.png cannot be read as an image \(its content is no image"):
        load_dataset(config(images, max_memory_mb=max_memory_mb))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded, as they are."""
    found: list[str] = []
    original = decoding._read

    def decode(path: str, *arguments: Any, **settings: Any) -> Any:
        found.append(path)
        return original(path, *arguments, **settings)

    monkeypatch.setattr(decoding, "_read", decode)
    return found


def load(root: Path, settings: ImageFolderConfig) -> Any:
    with looked_at_once(root):
        return load_dataset(settings)


def test_a_store_remembers_that_files_on_demand_can_be_read(images: Path, tmp_path: Path, decoded: list[str]) -> None:
    root = tmp_path / "store"
    root.mkdir()
    on_demand = config(images, max_memory_mb=0)
    first = load(root, on_demand)
    assert {*map(Path, decoded)} == {*images.rglob("*.png")}
    passes = len(decoded)
    decoded.clear()
    again = load(root, on_demand)
    assert len(decoded) == passes - 20  # the pass over all files is spared, what is trained on is still decoded
    assert again.train.source.pixel_digests == first.train.source.pixel_digests
    assert torch.equal(again.train.pixels(), first.train.pixels())


def test_what_a_store_remembers_holds_for_these_files_read_in_this_way(
    images: Path, tmp_path: Path, decoded: list[str], write_image: WriteImage
) -> None:
    root = tmp_path / "store"
    root.mkdir()
    first = load(root, config(images, max_memory_mb=0))
    write_image(images / "a" / "0.png", 99)
    changed = load(root, config(images, max_memory_mb=0))
    assert len(set(first.train.source.pixel_digests) - set(changed.train.source.pixel_digests)) == 1
    for changes in ({"grayscale": True}, {"background": "black"}, {"white_level": 9.0}):
        decoded.clear()
        load(root, config(images, max_memory_mb=0, **changes))
        assert {*map(Path, decoded)} == {*images.rglob("*.png")}
    damage(images, "a/0.png")
    with pytest.raises(UserError, match=r"a/0\.png cannot be read"):
        load(root, config(images, max_memory_mb=0))


def test_without_a_store_every_file_is_looked_at_every_time(images: Path, decoded: list[str]) -> None:
    for _ in range(2):
        decoded.clear()
        load_dataset(config(images, max_memory_mb=0))
        assert {*map(Path, decoded)} == {*images.rglob("*.png")}


def test_files_on_demand_and_in_memory_have_the_same_pixels_and_digests(images: Path) -> None:
    kept, on_demand = load_dataset(config(images)), load_dataset(config(images, max_memory_mb=0))
    assert isinstance(kept.train.source, TensorSource)
    assert isinstance(on_demand.train.source, FolderSource)
    assert kept.train.source.pixel_digests == on_demand.train.source.pixel_digests
    assert len(set(kept.train.source.pixel_digests or ())) == 20


def test_the_latest_data_set_is_kept_until_its_files_change(images: Path, write_image: WriteImage) -> None:
    first = load_dataset_once(config(images))
    assert load_dataset_once(config(images)) is first
    write_image(images / "a" / "0.png", 99)
    assert load_dataset_once(config(images)) is not first


@pytest.mark.parametrize("names", [{"digits": "0123456789"}])
def test_class_names_are_known(images: Path, names: dict[str, str]) -> None:
    from rnet.data.config import DigitsConfig

    assert load_dataset(config(images)).class_names == ("a", "b")
    assert load_dataset(DigitsConfig()).class_names == tuple(names["digits"])


def test_a_part_of_which_nothing_can_be_read_is_refused(images: Path, write_image: WriteImage) -> None:
    for name in ("test", "train"):
        write_image(images.parent / "parts" / name / "a" / "0.png", 0)
        write_image(images.parent / "parts" / name / "b" / "1.png", 1)
    damage(images.parent / "parts" / "test", "a/0.png", "b/1.png")
    with pytest.raises(UserError, match="none of the 2 test images can be read; replace them"):
        load_dataset(config(images.parent / "parts", damaged="skip", substitute_pool=0))
