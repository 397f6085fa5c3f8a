"""Images that are files: kept decoded in memory where they fit, decoded on demand by a pool of threads where not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from rnet.data.config import DatasetConfig
from rnet.data.decoding import AS_STORED, Facts, Reading, keep_pillow_quiet, pixels_of_file, read_image
from rnet.data.files.listing import Box
from rnet.data.images import ImageSource, TensorSource
from rnet.data.inspection import check_found, keep_found, kept_found
from rnet.data.resize import decode_image, fit_file, within
from rnet.data.views import Views
from rnet.errors import UserError

J = TypeVar("J")
T = TypeVar("T")

_MAX_THREADS = 32
_IMAGES_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files decoded at every fetch, resized and centre-cropped to image_size; channels: 3 or 1.

    resize, interpolation: as in resize.py. boxes: by path, what is cut out of an image before. pixel_digests: of each
    decoded image, None where they have not been looked at yet. memory_mb: what a part of them may take if it is kept.
    damaged: positions of files that cannot be read.
    """

    paths: Sequence[str]
    image_size: int
    channels: int
    reading: Reading = AS_STORED
    resize: int | None = None
    interpolation: str = "bilinear"
    pixel_digests: Sequence[str] | None = None
    boxes: Mapping[str, Box] | None = None
    memory_mb: int = 0
    damaged: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, positions_B: Tensor) -> Tensor:
        """uint8 (B, C, S, S) on the CPU. Raises UserError naming a file that cannot be decoded."""
        images = list(_map(self._decode, self._paths(positions_B)))
        size = self.image_size
        return torch.stack(images) if images else torch.empty(0, self.channels, size, size, dtype=torch.uint8)

    def views_of(self, positions_B: Tensor, draws_BD: Tensor, views: Views) -> Iterator[Tensor]:
        """uint8 (C, S, S) each, on the CPU: random views, cropped from the whole image and not from its middle square.

        Of any strides: decoders put the colours of a pixel side by side.
        """
        jobs = list(zip(self._paths(positions_B), draws_BD.tolist(), strict=True))
        return _map(lambda job: self.view(*job, views), jobs)

    def fits(self, count: int) -> bool:
        """Whether so many of the images may be kept in memory."""
        return count * self.channels * self.image_size**2 <= self.memory_mb * 2**20

    def _paths(self, positions_B: Tensor) -> list[str]:
        return [self.paths[position] for position in positions_B.tolist()]

    def inspect(self, *, keep: bool) -> tuple[ImageSource, list[Facts | UserError]]:
        """This source, or with keep one of all its images in memory; of each file what was found or what is wrong."""
        images_NCHW = torch.zeros(
            len(self) if keep else 0, self.channels, self.image_size, self.image_size, dtype=torch.uint8
        )
        found: list[Facts | UserError] = []
        for start in range(0, len(self), _IMAGES_AT_ONCE):
            decoded = _map(self._attempt, self.paths[start : start + _IMAGES_AT_ONCE])
            for position, one in enumerate(decoded, start):
                if isinstance(one, UserError):
                    found.append(one)
                else:
                    found.append(one[1])
                    if keep:
                        images_NCHW[position] = one[0]
        files = self.known(
            [path if isinstance(one, UserError) else one.pixels for one, path in zip(found, self.paths, strict=True)],
            frozenset(position for position, one in enumerate(found) if isinstance(one, UserError)),
        )
        if not keep:
            return files, found
        return TensorSource(images_NCHW, files.pixel_digests, files, files.damaged), found

    def known(self, pixel_digests: Sequence[str], damaged: frozenset[int]) -> FolderSource:
        """This source with what is known of its files."""
        return replace(self, pixel_digests=pixel_digests, damaged=damaged)

    def _decode(self, path: str) -> Tensor:
        return decode_image(
            path, self.image_size, self.channels, self.reading, resize=self.resize, interpolation=self.interpolation,
            box=self._box(path),
        )  # fmt: skip

    def view(self, path: str, draws_D: list[float], views: Views) -> Tensor:
        """uint8 (C, S, S): the random view of one file."""
        if views.crop_scale is None:
            return views.of(self._decode(path), self.image_size, draws_D)
        image_CHW = pixels_of_file(path, self.channels, self.reading)
        if (box := self._box(path)) is not None:
            left, top, right, bottom = within(box, path, image_CHW.shape[2], image_CHW.shape[1])
            image_CHW = image_CHW[:, top:bottom, left:right]
        return views.of(image_CHW, self.image_size, draws_D)

    def _box(self, path: str) -> Box | None:
        return None if self.boxes is None else self.boxes[path]

    def _attempt(self, path: str) -> tuple[Tensor, Facts] | UserError:
        try:
            image, facts = read_image(path, self.channels, self.reading)
            return fit_file(
                image, path, self.image_size, self.channels, resize=self.resize, interpolation=self.interpolation,
                box=self._box(path),
            ), facts  # fmt: skip
        except UserError as error:
            return error


def file_sources(
    config: DatasetConfig, *path_lists: Sequence[str], boxes: Mapping[str, Box] | None = None
) -> tuple[ImageSource, ...]:
    """One source per list of image files: all in memory if together they take at most dataset.max_memory_mb MiB.

    boxes: by path, what is cut out of each image before it is resized; None for all of it. Every file is decoded once
    now, unless the store remembers that it was. Raises UserError that names those that cannot be read right.
    """
    if config.image_size < 1:
        raise UserError(
            f"dataset.image_size={config.image_size}: the images of dataset={config.name} differ in size or are not "
            f"square, so a size is needed, e.g. dataset.image_size=32"
        )
    channels = 1 if config.grayscale else 3
    reading = Reading.of(config)
    sources = [
        FolderSource(
            paths,
            config.image_size,
            channels,
            reading,
            config.resize,
            config.interpolation or "bilinear",
            boxes=boxes,
            memory_mb=config.max_memory_mb,
        )
        for paths in path_lists
    ]
    total_bytes = sum(len(paths) for paths in path_lists) * channels * config.image_size**2
    in_memory = total_bytes <= config.max_memory_mb * 2**20
    paths = [path for one in path_lists for path in one]
    if not in_memory and (kept := kept_found(config)) is not None:
        check_found(config, kept, paths)
        places, known = iter(range(len(paths))), set(kept.damaged)
        return tuple(
            source.known(
                [kept.pixels[place] for place in own],
                frozenset(position for position, place in enumerate(own) if place in known),
            )
            for source in sources
            for own in [[next(places) for _ in source.paths]]
        )
    inspected = [source.inspect(keep=in_memory) for source in sources]
    found = keep_found(config, [one for _, all_found in inspected for one in all_found], paths)
    check_found(config, found, paths)
    return tuple(source for source, _ in inspected)


def _map(work: Callable[[J], T], jobs: Sequence[J]) -> Iterator[T]:
    """In threads, but in a worker process one after the other, each when it is asked for."""
    keep_pillow_quiet()
    return map(work, jobs) if get_worker_info() is not None else _decoders(os.getpid()).map(work, jobs)


@lru_cache(maxsize=1)
def _decoders(process_id: int) -> ThreadPoolExecutor:
    """The threads of this process (a forked child inherits the cache but not the threads, hence the argument)."""
    count = min(_MAX_THREADS, len(os.sched_getaffinity(process_id)))
    return ThreadPoolExecutor(count, thread_name_prefix="rnet-decode")
