"""An epoch over two processes of two workers each, resumed in its middle, from files and from shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnet.data.loading import load_dataset
from tests.data.epoch import check_damaged, check_epoch, config_of, write_both

COUNT = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("epoch")
    write_both(place, COUNT, per_shard=70)
    return place


def test_each_image_comes_once_and_a_resumed_epoch_has_the_same_rest_from_files_and_from_shards(folder: Path) -> None:
    parts = [load_dataset(config_of(folder, name)).train for name in ("image_folder", "webdataset")]
    seen = [check_epoch(part, others) for part, others in zip(parts, ([(1, 3)], [(3, 1)]), strict=True)]
    assert seen[0] == seen[1]


def test_an_image_that_ends_too_early_is_named_or_left_out_alone(folder: Path) -> None:
    file = sorted((folder / "tree" / "train").rglob("*.jpg"))[COUNT // 2]
    assert check_damaged(config_of(folder, "image_folder"), file, names=file.name) == COUNT - 1
