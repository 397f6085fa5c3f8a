"""Equal images: counted where they are in several parts or classes, and kept in one part where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rnet.data.config import DatasetConfig, ImageFolderConfig
from rnet.data.images import Dataset, RawImages, TensorSource
from rnet.data.loading import load_dataset, split_dataset
from rnet.data.splits import SplitSizes, split_by_groups, split_positions


def images(*numbers: int) -> TensorSource:
    """An image of its own for every number."""
    generator = torch.Generator().manual_seed(0)
    known = torch.randint(0, 256, (100, 3, 4, 4), generator=generator).to(torch.uint8)
    return TensorSource(known[list(numbers)])


def split(train: list[int], test: list[int] | None = None, labels: list[int] | None = None, **changes: Any) -> Dataset:
    raw = RawImages(
        train=images(*train), train_labels_N=torch.tensor(labels or [0, 1] * (len(train) // 2)),
        test=None if test is None else images(*test),
        test_labels_N=None if test is None else torch.zeros(len(test), dtype=torch.int64),
        num_classes=2, flip=False,
    )  # fmt: skip
    return split_dataset(raw, DatasetConfig(**{"name": "own", "substitute_pool": 10, **changes}))


def keys(dataset: Dataset) -> dict[str, set[bytes]]:
    return {
        part: {
            image.numpy().tobytes() for image in getattr(dataset, part).fetch(torch.arange(len(getattr(dataset, part))))
        }
        for part in ("train", "substitute", "test")
    }


PAIRS = [*range(20), *range(20)]


def test_images_in_several_parts_are_counted_for_each_pair_of_parts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = split(PAIRS, test=[0, 1, 2, 50])
    train, substitute, test = (keys(dataset)[part] for part in ("train", "substitute", "test"))
    (said,) = [text for text in caplog.messages if "share images" in text]
    in_substitute = sum(image.numpy().tobytes() in train for image in dataset.substitute.fetch(torch.arange(10)))
    assert f"{in_substitute} of substitute are in victim-training too" in said
    assert f"{len(test & train)} of test are in victim-training too" in said
    assert (f"{len(test & substitute)} of test are in substitute too" in said) == bool(test & substitute)
    assert "dataset.duplicates=together" in said


def test_nothing_is_said_of_images_that_all_differ(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split(list(range(40)), test=[50, 51])
    assert not caplog.messages


def test_an_image_under_two_labels_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split([*range(30), 0, 1, 2, 3], labels=[0] * 30 + [1, 1, 0, 0])
    assert any("2 images of own have copies under different labels" in text for text in caplog.messages)


@pytest.mark.parametrize("official", [None, [0, 1, 2, 50]])
@pytest.mark.parametrize("seed", range(5))
def test_together_leaves_no_image_in_two_parts(
    official: list[int] | None, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = split(PAIRS + list(range(60, 80)), official, duplicates="together", split_seed=seed)
    found = keys(dataset)
    assert not found["train"] & found["substitute"]
    assert not found["train"] & found["test"]
    assert not found["substitute"] & found["test"]
    assert not any("share images" in text for text in caplog.messages)
    assert len(dataset.substitute) == 10
    everything = len(dataset.train) + len(dataset.substitute) + len(dataset.test)
    assert everything == (60 if official is None else 60 - 6 + 4)


def test_without_equal_images_together_changes_nothing_but_the_order() -> None:
    sizes = SplitSizes(substitute_pool=7, train_size=9, test_size=5, seed=3)
    one = split_positions(30, None, sizes)
    other = split_by_groups(torch.arange(30), torch.arange(0), None, sizes)
    for part in ("train_N", "substitute_N", "test_N"):
        assert torch.equal(getattr(one, part), getattr(other, part))


def test_a_size_that_no_copies_fill_is_filled_by_one_of_them_and_the_other_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = split(PAIRS, duplicates="together", test_size=5)
    assert (len(dataset.test), len(dataset.substitute)) == (5, 10)
    assert len(dataset.train) == 24
    assert "1 image of own in no part, as others of their copies are in one" in caplog.messages


def test_saying_leaves_the_split_as_it_was() -> None:
    dataset = split(PAIRS)
    expected = split_positions(40, None, SplitSizes(substitute_pool=10))
    assert torch.equal(dataset.train.positions_N, expected.train_N)
    assert torch.equal(dataset.test.positions_N, expected.test_N)


@pytest.mark.parametrize("max_memory_mb", [0, 100])
def test_files_are_compared_by_their_pixels_at_full_size(
    tmp_path: Path, write_image: Callable[..., None], caplog: pytest.LogCaptureFixture, max_memory_mb: int
) -> None:
    for i in range(20):
        write_image(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", i)
    write_image(tmp_path / "test" / "a" / "copy.bmp", 4)  # other bytes, equal pixels
    write_image(tmp_path / "test" / "b" / "new.png", 77)
    config = ImageFolderConfig(folder=str(tmp_path), image_size=1, substitute_pool=4, max_memory_mb=max_memory_mb)
    with caplog.at_level(logging.WARNING):
        load_dataset(config)
    (said,) = [text for text in caplog.messages if "share images" in text]
    assert "1 of test are in " in said
