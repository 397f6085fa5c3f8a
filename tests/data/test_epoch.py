"""An epoch over two processes of two workers each, resumed in its middle, from files and from shards."""

from __future__ import annotations

from pathlib import Path

from rnet.data.loading import load_dataset
from tests.data.epoch import check_epoch, config_of, write_both


def test_each_image_comes_once_and_a_resumed_epoch_has_the_same_rest_from_files_and_from_shards(tmp_path: Path) -> None:
    write_both(tmp_path, 240, per_shard=70)
    parts = [load_dataset(config_of(tmp_path, name)).train for name in ("image_folder", "webdataset")]
    seen = [check_epoch(part, others) for part, others in zip(parts, ([(1, 3)], [(3, 1)]), strict=True)]
    assert seen[0] == seen[1]
