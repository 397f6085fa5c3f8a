"""Which images. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rnet.config.checks import check_at_least_0, check_at_least_1
from rnet.config.component import ComponentConfig


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(ComponentConfig):
    """Which images, at what size, and how they are shared out between victim, attacker and measurement."""

    unused: ClassVar[tuple[str, ...]] = ()
    """Keys that this data set does not read; setting one is warned about."""

    name: str = ""
    """The data set: a name that rnet list datasets shows, or package.module:function."""
    folder: str | None = None
    """Where the files are; None looks in the dataset's well-known places and in ~/.cache/rnet/data."""
    download: bool = field(default=False, metadata={"execution_only": True})
    """Fetch missing files from the internet, for the datasets that can."""
    image_size: int = 0
    """Height and width in pixels; 0 keeps the native size of datasets whose images are all equal and square."""
    grayscale: bool = False
    """Convert colour images to one channel of luma (ITU-R BT.601)."""
    substitute_pool: int = 500
    """Images taken out of the training images and reserved for the attacker."""
    train_size: int | None = None
    """At most so many images for the victim; None for all that the pool leaves."""
    test_size: int | None = None
    """Images that measure; None for the official test images, or 20 % where a dataset has none of its own."""
    split_seed: int = 0
    """The only thing, besides the sizes, that decides which image is in which part."""
    flip: bool | None = None
    """Whether a mirrored image is still one of its class; None for the dataset's natural answer."""
    max_memory_mb: int = field(default=4096, metadata={"execution_only": True})
    """Image files that decoded take more MiB than this are decoded on demand instead of being kept in memory."""

    def check(self) -> None:
        """Raises UserError for sizes out of range."""
        check_at_least_0("dataset", self, "image_size", "substitute_pool", "max_memory_mb")
        given = [key for key in ("train_size", "test_size") if getattr(self, key) is not None]
        check_at_least_1("dataset", self, *given)


@dataclass(frozen=True, kw_only=True)
class DigitsConfig(DatasetConfig):
    """Handwritten digits of scikit-learn."""

    unused = ("folder", "download", "max_memory_mb")
    name: str = "digits"


@dataclass(frozen=True, kw_only=True)
class FashionMNISTConfig(DatasetConfig):
    """Clothes, in four idx files."""

    unused = ("max_memory_mb",)
    name: str = "fashion_mnist"


@dataclass(frozen=True, kw_only=True)
class CIFAR10Config(DatasetConfig):
    """Ten kinds of things, in the files of CIFAR-10 for Python."""

    unused = ("max_memory_mb",)
    name: str = "cifar10"


@dataclass(frozen=True, kw_only=True)
class GTSRBConfig(DatasetConfig):
    """Traffic signs, in image files."""

    name: str = "gtsrb"


@dataclass(frozen=True, kw_only=True)
class CelebAConfig(DatasetConfig):
    """Faces, in image files with a table of attributes."""

    name: str = "celeba"
    attribute: str | None = None
    """The attribute to classify, of 40; None for Smiling."""


@dataclass(frozen=True, kw_only=True)
class LFWConfig(DatasetConfig):
    """Faces of people, in image files."""

    name: str = "lfw"


@dataclass(frozen=True, kw_only=True)
class ImageFolderConfig(DatasetConfig):
    """The user's own image files."""

    unused = ("download",)
    name: str = "image_folder"
