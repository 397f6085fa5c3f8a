"""Images that are files: kept decoded in memory where they fit, decoded on demand by a pool of threads where not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rnet.data.config import DatasetConfig
from rnet.data.images import ImageSource, TensorSource
from rnet.data.resize import decode_image
from rnet.errors import UserError

_MAX_THREADS = 32
_IMAGES_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files decoded at every fetch, resized and centre-cropped to image_size; channels: 3 or 1."""

    paths: Sequence[str]
    image_size: int
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, positions_B: Tensor) -> Tensor:
        """uint8 (B, C, S, S) on the CPU. Raises UserError naming a file that cannot be decoded."""
        paths = [self.paths[position] for position in positions_B.tolist()]
        if not paths:
            return torch.empty(0, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        decoders = _decoders(os.getpid())
        return torch.stack(list(decoders.map(lambda path: decode_image(path, self.image_size, self.channels), paths)))

    def in_memory(self) -> TensorSource:
        """All images, decoded once."""
        images_NCHW = torch.empty(len(self), self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        for positions_B in torch.arange(len(self)).split(_IMAGES_AT_ONCE):
            images_NCHW[positions_B] = self.fetch(positions_B)
        return TensorSource(images_NCHW)


def file_sources(config: DatasetConfig, *path_lists: Sequence[str]) -> tuple[ImageSource, ...]:
    """One source per list of image files: all in memory if together they take at most dataset.max_memory_mb MiB."""
    if config.image_size < 1:
        raise UserError(
            f"dataset.image_size={config.image_size}: the images of dataset={config.name} differ in size or are not "
            f"square, so a size is needed, e.g. dataset.image_size=32"
        )
    channels = 1 if config.grayscale else 3
    sources = [FolderSource(paths, config.image_size, channels) for paths in path_lists]
    total_bytes = sum(len(paths) for paths in path_lists) * channels * config.image_size**2
    if total_bytes > config.max_memory_mb * 2**20:
        return tuple(sources)
    return tuple(source.in_memory() for source in sources)


def files_by_class(folder: str | os.PathLike[str], suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """folder/<class>/<file> as {class: files}, both sorted by name; names that start with a dot are left out."""
    with os.scandir(folder) as entries:
        classes = sorted((e.name, e.path) for e in entries if e.is_dir() and not e.name.startswith("."))
    found: dict[str, list[str]] = {}
    for name, path in classes:
        with os.scandir(path) as entries:
            found[name] = sorted(
                e.path for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith(".")
            )
    return found


@lru_cache(maxsize=1)
def _decoders(process_id: int) -> ThreadPoolExecutor:
    """The threads of this process (a forked child inherits the cache but not the threads, hence the argument)."""
    count = min(_MAX_THREADS, len(os.sched_getaffinity(process_id)))
    return ThreadPoolExecutor(count, thread_name_prefix="rnet-decode")
