"""An epoch of photographs, as JPEG files in folders and as tar shards, seen by several processes of several workers.

`python -m tests.data.epoch 6000` makes so many files of 500x375 pixels and checks on them what test_epoch.py checks on
a few: each image comes exactly once, the rest of an epoch that is resumed has the same bits however many processes and
workers read it, and what is damaged is named, or left out and counted.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from rnet.bench.data import write_photographs
from rnet.data.batches import TrainingBatches
from rnet.data.config import DatasetConfig
from rnet.data.images import Part
from rnet.data.loading import load_dataset
from rnet.data.registry import DATASETS
from rnet.data.views import Views
from rnet.errors import UserError
from tests.data.test_shards import write_shard

BATCH_SIZE = 24
SETTINGS: dict[str, Any] = {"image_size": 64, "substitute_pool": 0, "max_memory_mb": 0}

Seen = dict[int, tuple[int, str]]
"""By place in the training stream: which image came, and a digest of its view."""


def write_both(folder: Path, count: int, *, per_shard: int) -> None:
    """tree/train and tree/val with class folders, and the same images in the same order in shards/."""
    write_photographs(folder / "tree" / "train", count)
    write_photographs(folder / "tree" / "val", 8)
    for part in ("train", "val"):
        paths = sorted((folder / "tree" / part).rglob("*.jpg"))
        for start in range(0, len(paths), per_shard):
            files: dict[str, bytes] = {}
            for path in paths[start : start + per_shard]:
                files[f"{path.stem}.jpg"] = path.read_bytes()
                files[f"{path.stem}.cls"] = path.parent.name.removeprefix("class ").encode()
            write_shard(folder / "shards" / f"{part}-{start // per_shard:06d}.tar", files)


def config_of(folder: Path, name: str, **changes: Any) -> DatasetConfig:
    """name: image_folder or webdataset."""
    place = folder / ("tree" if name == "image_folder" else "shards")
    return DATASETS.config_class(name)(folder=str(place), **{**SETTINGS, **changes})


def see(part: Part, steps: range, *, processes: int, workers: int) -> Seen:
    """What so many processes see together in these steps, each reading with so many workers of its own."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    shares = [
        context.Process(target=_share, args=(part, steps, rank, processes, workers, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    for share in shares:
        share.start()
    for _, inner in pipes:
        inner.close()
    found = [pair for outer, _ in pipes for pair in outer.recv()]
    for share in shares:
        share.join()
    seen = dict(found)
    assert len(seen) == len(found) == len(steps) * BATCH_SIZE
    return seen


def _share(part: Part, steps: range, rank: int, processes: int, workers: int, result: Connection) -> None:
    torch.set_num_threads(1)
    batches = TrainingBatches(
        part, batch_size=BATCH_SIZE, seed=3, flip=True, views=Views(crop_scale=(0.08, 1.0)), device="cpu", rank=rank,
        world_size=processes, workers=workers,
    )  # fmt: skip
    found = []
    for step in steps:
        batch = batches(step)
        digests = [hashlib.blake2b(x_CHW.numpy(), digest_size=16).hexdigest() for x_CHW in batch.x_BCHW]
        seen = zip(batch.indices_B.tolist(), digests, strict=True)
        found += zip(batch.stream_ids_B.tolist(), seen, strict=True)
    result.send(found)


def check_epoch(part: Part, others: Sequence[tuple[int, int]]) -> Seen:
    """Two processes of two workers see each image once. Others (processes, workers) see the same from the middle on."""
    steps = len(part) // BATCH_SIZE
    assert steps * BATCH_SIZE == len(part)
    seen = see(part, range(steps), processes=2, workers=2)
    assert sorted(index for index, _ in seen.values()) == list(range(len(part)))
    assert len({digest for _, digest in seen.values()}) == len(part)
    middle = steps // 2 - 1
    rest = {place: one for place, one in seen.items() if place >= middle * BATCH_SIZE}
    for processes, workers in others:
        assert see(part, range(middle, steps), processes=processes, workers=workers) == rest, (processes, workers)
    return seen


def check_damaged(config: DatasetConfig, file: Path, *, names: str) -> int:
    """How many images are left when the file ends too early: it is named before, or skipped as set."""
    content = file.read_bytes()
    file.write_bytes(content[: 2 * len(content) // 3])
    try:
        with pytest.raises(UserError, match=re.escape(names)) as refused:
            load_dataset(config)
        print(f"  {refused.value}")  # noqa: T201
        with said() as texts:
            found = len(load_dataset(DATASETS.config_class(config.name)(**{**vars(config), "damaged": "skip"})).train)
        assert any(names in text for text in texts), texts
    finally:
        file.write_bytes(content)
    return found


@contextmanager
def said() -> Iterator[list[str]]:
    """What rnet tells its user meanwhile."""
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("rnet")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rnet-epoch-") as scratch:
        folder, started = Path(scratch), time.perf_counter()
        write_both(folder, count, per_shard=max(8, count // 10))
        tell(f"{count:,} files and {len(list(folder.glob('shards/train-*')))} shards written", started)
        seen = []
        for name in ("image_folder", "webdataset"):
            part = load_dataset(config_of(folder, name)).train
            assert len(part) == count
            tell(f"{name}: all files decoded once", started)
            seen.append(check_epoch(part, [(2, 2), (1, 3), (3, 1), (2, 0)]))
            tell(f"{name}: every image once, the rest the same with 2x2, 1x3, 3x1 and 2x0 workers", started)
        assert seen[0] == seen[1]
        tell("folders and shards: the same order and the same bits", started)
        file = sorted((folder / "tree" / "train").rglob("*.jpg"))[count // 2]
        left = check_damaged(config_of(folder, "image_folder"), file, names=file.name)
        assert left == count - 1
        tell(f"a truncated file: {left:,} images left with damaged=skip", started)
        shard = sorted((folder / "shards").glob("train-*"))[-1]
        left = check_damaged(config_of(folder, "webdataset"), shard, names=shard.name)
        assert count - max(8, count // 10) < left < count
        tell(f"a truncated shard: {left:,} images left with damaged=skip", started)


def tell(text: str, started: float) -> None:
    print(f"{time.perf_counter() - started:6.0f} s  {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6000)
