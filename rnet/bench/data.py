"""How fast images are read for training, beside the decoding alone and beside a straightforward program.

All ways read the same JPEG files in the same order of batches and make views of the same size, on the same number of
worker processes; they take turns, in rounds. Where no folder is given, photographs are cut from scikit-image's.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from rnet.bench.timing import interquartile_range
from rnet.data.batches import TrainingBatches
from rnet.data.folder import FolderSource
from rnet.data.images import Part
from rnet.data.views import Views

VIEWS = Views(crop_scale=(0.08, 1.0))
HEIGHT, WIDTH = 375, 500


def write_photographs(folder: Path, count: int) -> list[str]:
    """The paths of so many JPEG files of 500x375 pixels, about ImageNet's usual size, cut from photographs."""
    from skimage import data

    photographs = [Image.fromarray(image) for image in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]
    photographs = [image.resize((max(700, image.width), max(550, image.height))) for image in photographs]
    draws = np.random.default_rng(0)
    paths = []
    for i in range(count):
        image = photographs[i % len(photographs)]
        left, top = (int(draws.integers(0, most + 1)) for most in (image.width - WIDTH, image.height - HEIGHT))
        path = folder / f"class {i % len(photographs)}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.crop((left, top, left + WIDTH, top + HEIGHT)).save(path, quality=int(draws.integers(80, 96)))
        paths.append(str(path))
    return paths


def bench_data(
    folder: Path, paths: Sequence[str], *, image_size: int, batch_size: int, workers: int, rounds: int
) -> list[dict[str, Any]]:
    """Rows {"name", "images_per_second", "spread", "ratio"}: the median over rounds, and rnet's share of each.

    folder: holds the paths below class folders, which torchvision's ImageFolder wants.
    """
    steps = max(1, len(paths) // batch_size)
    source = FolderSource(list(paths), image_size, 3)
    part = Part(
        source=source, positions_N=torch.arange(len(paths)), labels_N=torch.zeros(len(paths), dtype=torch.int64)
    )
    ways: dict[str, Callable[[int], float]] = {
        "rnet's loader": lambda r: _rnet(part, batch_size, steps, workers, seed=r),
        "decoding and cropping alone": lambda r: _decoding(source, batch_size, steps, workers, seed=r),
        "rnet's loader, in threads": lambda r: _rnet(part, batch_size, steps, 0, seed=r),
        "ImageFolder, Pillow": lambda r: _image_folder(folder, image_size, batch_size, steps, workers),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for r in range(rounds):
        for name, seconds in ways.items():
            rates[name].append(steps * batch_size / seconds(r))
    own = rates["rnet's loader"]
    return [
        {
            "name": name, "images_per_second": median(found), "spread": interquartile_range(found),
            "ratio": median(mine / other for mine, other in zip(own, found, strict=True)),
        }
        for name, found in rates.items()
    ]  # fmt: skip


def _rnet(part: Part, batch_size: int, steps: int, workers: int, *, seed: int) -> float:
    """Seconds for the steps after a first one, in which the workers start."""
    batches = TrainingBatches(
        part, batch_size=batch_size, seed=seed, flip=True, views=VIEWS, device="cpu", workers=workers
    )
    batches(0)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        batches(step)
    return time.perf_counter() - started


def _decoding(source: FolderSource, batch_size: int, steps: int, workers: int, *, seed: int) -> float:
    """Seconds of the slowest of so many processes that share the images, and hand nothing on."""
    order_N = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    count = steps * batch_size
    shares = [order_N[torch.arange(start, count, workers) % len(source)] for start in range(workers)]
    context = multiprocessing.get_context("fork")
    with context.Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pool.map(_decode_all, [(source, share[:1]) for share in shares], chunksize=1)  # all processes are there
        started = time.perf_counter()
        pool.map(_decode_all, [(source, share) for share in shares], chunksize=1)
        return time.perf_counter() - started


def _decode_all(job: tuple[FolderSource, Tensor]) -> None:
    source, positions_N = job
    draws = torch.rand(len(positions_N), VIEWS.draws, generator=torch.Generator().manual_seed(0)).tolist()
    for position, draws_D in zip(positions_N.tolist(), draws, strict=True):
        source.crop(source.paths[position], draws_D, VIEWS)


def _image_folder(folder: Path, image_size: int, batch_size: int, steps: int, workers: int) -> float:
    """The program of the tutorials: Pillow, RandomResizedCrop, a mirror, a float tensor."""
    seen = transforms.Compose(
        [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    loader: DataLoader[Any] = DataLoader(
        ImageFolder(str(folder), seen), batch_size=batch_size, shuffle=True, num_workers=workers, drop_last=True
    )
    iterator = iter(loader)
    next(iterator)
    started = time.perf_counter()
    done = 0
    for _ in range(steps):
        if (batch := next(iterator, None)) is None:
            break
        done += len(batch[0])
    return (time.perf_counter() - started) * steps * batch_size / max(1, done)
