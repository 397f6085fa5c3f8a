"""How fast images are read for training, beside the decoding alone and beside a straightforward program.

All ways read the same JPEG files in the same order of batches and make views of the same size, on the same number of
worker processes; they take turns, in rounds. Where no folder is given, photographs are cut from scikit-image's.

The loader is measured until its bytes are on the device. What makes floats of them is the device: on a CPU, the cores
that decode as well, so that this is a way of its own. Decoding alone hands nothing on, and nobody waits for batches.
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
from torchvision.io import ImageReadMode, decode_image

from rnet.bench.timing import interquartile_range, now
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
    folder: Path, paths: Sequence[str], *, image_size: int, batch_size: int, workers: int, rounds: int,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows {"name", "images_per_second", "spread", "ratio", "ratio_low", "ratio_high"}: medians of the rounds.

    folder: holds the paths below class folders, which torchvision's ImageFolder wants. ratio: of the images per second
    of rnet's loader to those of this way, in each round; ratio_low and ratio_high: its least and its largest.
    """
    steps = max(1, len(paths) // batch_size)
    source = FolderSource(list(paths), image_size, 3)
    part = Part(
        source=source, positions_N=torch.arange(len(paths)), labels_N=torch.zeros(len(paths), dtype=torch.int64)
    )

    def loader(workers: int, *, floats: bool) -> Callable[[int], float]:
        return lambda r: _rnet(part, batch_size, steps, workers, seed=r, device=device, floats=floats)

    ways: dict[str, Callable[[int], float]] = {
        "rnet's loader": loader(workers, floats=False),
        "decoding and cropping alone": lambda r: _decoding(source, batch_size, steps, workers, seed=r),
        "rnet's loader, to floats": loader(workers, floats=True),
        "rnet's loader, in threads": loader(0, floats=False),
        "ImageFolder, torchvision.io": lambda r: _image_folder(folder, image_size, batch_size, steps, workers, io=True),
        "ImageFolder, Pillow": lambda r: _image_folder(folder, image_size, batch_size, steps, workers, io=False),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for r in range(rounds):
        for name, seconds in ways.items():
            rates[name].append(steps * batch_size / seconds(r))
    rows = []
    for name, found in rates.items():
        ratios = [mine / other for mine, other in zip(rates["rnet's loader"], found, strict=True)]
        rows.append({
            "name": name, "images_per_second": median(found), "spread": interquartile_range(found),
            "ratio": median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
        })  # fmt: skip
    return rows


def _rnet(
    part: Part, batch_size: int, steps: int, workers: int, *, seed: int, device: torch.device | str, floats: bool
) -> float:
    """Seconds for the steps after a first one, in which the workers start."""
    batches = TrainingBatches(
        part, batch_size=batch_size, seed=seed, flip=True, views=VIEWS, device=device, workers=workers
    )
    take: Callable[[int], Any] = batches if floats else batches.images
    take(0)
    started = now(torch.device(device))
    for step in range(1, steps + 1):
        take(step)
    return now(torch.device(device)) - started


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
        source.view(source.paths[position], draws_D, VIEWS)


def _image_folder(folder: Path, image_size: int, batch_size: int, steps: int, workers: int, *, io: bool) -> float:
    """The program of the tutorials: RandomResizedCrop, a mirror, a float tensor. io: decoded by torchvision.io."""
    seen = [transforms.RandomResizedCrop(image_size, antialias=True), transforms.RandomHorizontalFlip()]
    if io:
        to_floats = transforms.ConvertImageDtype(torch.float32)
        images = ImageFolder(str(folder), transforms.Compose([*seen, to_floats]), loader=_decode_rgb)
    else:
        images = ImageFolder(str(folder), transforms.Compose([*seen, transforms.ToTensor()]))
    loader: DataLoader[Any] = DataLoader(
        images, batch_size=batch_size, shuffle=True, num_workers=workers, drop_last=True
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


def _decode_rgb(path: str) -> Tensor:
    return decode_image(path, ImageReadMode.RGB)
