"""Photographs that scikit-image and scikit-learn bring along, and crops of them: natural images without a download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from rnet.data.resize import decode_image

SIDE, SHOWN = 256, 224
"""Pixels of a crop's side, and of the square in its middle that networks for ImageNet see."""
SMALLEST = 0.4
"""Side of the smallest crop, as a share of the photograph's shorter side."""
CLASSES = "classes.json"
"""Beside the folders of crops: the names of all classes, to be set as dataset.class_map."""


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """An image file of an installed package. shows: in words. right: names of ImageNet that fit; none where it has no
    class for it."""

    package: str
    file: str
    shows: str
    right: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it lies."""
        found = find_spec(self.package)
        assert found is not None
        assert found.origin is not None
        return Path(found.origin).parent / self.file


def _of_skimage(name: str, shows: str, *right: str) -> Photograph:
    return Photograph(package="skimage", file=f"data/{name}", shows=shows, right=right)


def _of_sklearn(name: str, shows: str, *right: str) -> Photograph:
    return Photograph(package="sklearn", file=f"datasets/images/{name}", shows=shows, right=right)


PHOTOGRAPHS = (
    _of_skimage("chelsea.png", "a cat", "tabby", "tiger cat", "Egyptian cat"),
    _of_skimage("coffee.png", "a cup of coffee", "espresso", "cup"),
    _of_skimage("rocket.jpg", "a rocket", "missile", "projectile"),
    _of_skimage("camera.png", "a man behind a camera on a tripod", "tripod", "reflex camera"),
    _of_skimage("motorcycle_left.png", "a motorcycle", "moped", "motor scooter"),
    _of_sklearn("china.jpg", "a Chinese temple", "palace", "monastery"),
    _of_skimage("clock_motion.png", "a clock, blurred beyond recognition", "wall clock", "analog clock"),
    _of_skimage("brick.png", "a brick wall", "stone wall"),
    _of_sklearn("flower.jpg", "a dahlia"),
    _of_skimage("astronaut.png", "an astronaut"),
    _of_skimage("coins.png", "ancient coins"),
    _of_skimage("grass.png", "grass"),
    _of_skimage("gravel.png", "gravel"),
)
"""What is in the wheels, is a photograph and needs no download."""


def seen(path: Path) -> Tensor:
    """uint8 (3, SHOWN, SHOWN): the middle of the image at SIDE pixels, as networks for ImageNet are fed."""
    return decode_image(str(path), SHOWN, 3, resize=SIDE, interpolation="bicubic")


def write_crops(
    folder: Path, counts: Mapping[str, int], names: Sequence[str], label: Callable[[Tensor], Tensor], seed: int = 0
) -> None:
    """Writes folder/<part>/<class>/<number>.jpg, and the names of all classes as CLASSES, unless it is there already.

    counts: how many crops of each part. They come from all photographs in turn, from random places and at random
    scales, so those of different parts may overlap. label: uint8 (B, 3, SHOWN, SHOWN) -> the number (B,) of each
    class; names: by these numbers. The folder appears when it is complete.
    """
    if folder.is_dir():
        return
    being_made = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(being_made, ignore_errors=True)
    generator = np.random.default_rng(seed)
    photographs = [Image.open(one.path).convert("RGB") for one in PHOTOGRAPHS]
    for part, count in counts.items():
        for number in range(count):
            file = being_made / f"{number:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            _crop(photographs[number % len(photographs)], generator).save(file, quality=95)
            (found,) = label(seen(file).unsqueeze(0)).tolist()
            place = being_made / part / names[found].replace("/", "_")
            place.mkdir(parents=True, exist_ok=True)
            file.rename(place / file.name)
    (being_made / CLASSES).write_text(json.dumps([name.replace("/", "_") for name in names], indent=0))
    being_made.rename(folder)


def _crop(photograph: Image.Image, generator: np.random.Generator) -> Image.Image:
    shorter = min(photograph.size)
    side = round(shorter * generator.uniform(SMALLEST, 1))
    left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
    box = (left, top, left + side, top + side)
    return photograph.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
