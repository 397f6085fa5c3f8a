"""Which images. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rnet.config.checks import check_at_least_0, check_at_least_1, check_names, check_positive
from rnet.config.component import ComponentConfig
from rnet.errors import UserError

_SET = {"hashed_if_set": True}
OF_FILES = ("background", "damaged", "digest", "max_memory_mb", "white_level")
"""Keys that only sets of image files read."""
OF_FOLDERS = ("class_map", "class_order")
"""Keys that only sets with a folder per class read."""
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "hamming", "box")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(ComponentConfig):
    """Which images, at what size, and how they are shared out between victim, attacker and measurement."""

    unused: ClassVar[tuple[str, ...]] = ()
    """Keys that this data set does not read; setting one is warned about."""
    files_by: ClassVar[tuple[str, ...]] = ()
    """Keys that decide which of its files are read, and in which order."""

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
    resize: int | None = field(default=None, metadata=_SET)
    """The shorter side in pixels before the middle square of image_size is cut out; None for image_size."""
    interpolation: str | None = field(default=None, metadata=_SET)
    """How images are resized: bilinear, bicubic, lanczos, nearest, hamming or box, as torchvision does with Pillow."""
    background: str = field(default="white", metadata=_SET)
    """What shows through transparent images: white, black or #rrggbb."""
    white_level: float | None = field(default=None, metadata=_SET)
    """The value of white in files of more than 8 bits: 4095 for 12 bits; None for their format's, 65535 or 1.0."""
    class_order: str = field(default="alphabetical", metadata=_SET)
    """How class folders are numbered: alphabetical (0, 1, 10, 2) as torchvision does, natural (0, 1, 2, 10) as timm."""
    class_map: str | None = field(default=None, metadata={"file": True})
    """A file that numbers the class folders: JSON {name: index}, or lines with a name or name,index."""
    duplicates: str = field(default="say", metadata=_SET)
    """What is done about equal images in different parts: say (count them), or together (put them into one part)."""
    balance: str = field(default="none", metadata=_SET)
    """Rare classes in the victim's training: none (as they are), or oversample (repeat images until all are equal)."""
    damaged: str = field(default="refuse", metadata=_SET)
    """Image files that cannot be read: refuse (name them), or skip (count them; they are in no part)."""
    digest: str = field(default="auto", metadata=_SET)
    """What ids hold of the files: content, listing (names, sizes and times), or auto: content of up to 4 GiB."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        check_at_least_0("dataset", self, "image_size", "substitute_pool", "max_memory_mb")
        given = [key for key in ("train_size", "test_size", "resize") if getattr(self, key) is not None]
        check_at_least_1("dataset", self, *given)
        if self.white_level is not None:
            check_positive("dataset", self, "white_level")
        check_names("dataset.interpolation", [self.interpolation or "bilinear"], *INTERPOLATIONS)
        check_names("dataset.class_order", [self.class_order], "alphabetical", "natural")
        check_names("dataset.duplicates", [self.duplicates], "say", "together")
        check_names("dataset.damaged", [self.damaged], "refuse", "skip")
        check_names("dataset.balance", [self.balance], "none", "oversample")
        check_names("dataset.digest", [self.digest], "auto", "content", "listing")
        background_rgb(self.background)
        if self.resize is not None and self.resize < self.image_size:
            raise UserError(
                f"dataset.resize={self.resize} is smaller than dataset.image_size={self.image_size}, which is cut out "
                f"of it; raise dataset.resize or lower dataset.image_size"
            )
        if self.resize is not None and self.image_size == 0:
            raise UserError(f"dataset.resize={self.resize} needs dataset.image_size, the size to cut out of it")


@dataclass(frozen=True, kw_only=True)
class DigitsConfig(DatasetConfig):
    """Handwritten digits of scikit-learn."""

    unused = ("folder", "download", *OF_FILES, *OF_FOLDERS)
    name: str = "digits"


@dataclass(frozen=True, kw_only=True)
class FashionMNISTConfig(DatasetConfig):
    """Clothes, in four idx files."""

    unused = ("background", "damaged", "max_memory_mb", "white_level", *OF_FOLDERS)
    name: str = "fashion_mnist"


@dataclass(frozen=True, kw_only=True)
class CIFAR10Config(DatasetConfig):
    """Ten kinds of things, in the files of CIFAR-10 for Python."""

    unused = ("background", "damaged", "max_memory_mb", "white_level", *OF_FOLDERS)
    name: str = "cifar10"


@dataclass(frozen=True, kw_only=True)
class GTSRBConfig(DatasetConfig):
    """Traffic signs, in image files."""

    unused = OF_FOLDERS
    name: str = "gtsrb"


@dataclass(frozen=True, kw_only=True)
class CelebAConfig(DatasetConfig):
    """Faces, in image files with a table of attributes."""

    unused = OF_FOLDERS
    name: str = "celeba"
    attribute: str | None = None
    """The attribute to classify, of 40; None for Smiling."""


@dataclass(frozen=True, kw_only=True)
class LFWConfig(DatasetConfig):
    """Faces of people, in image files, with a table of attributes if that is the question."""

    files_by = ("attribute",)
    name: str = "lfw"
    attribute: str | None = field(default=None, metadata=_SET)
    """Two classes by the sign of an attribute in lfw_attributes.txt, e.g. Male; None for the people themselves."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        if self.attribute is not None and self.class_map is not None:
            raise UserError("dataset.class_map numbers people, and dataset.attribute classifies otherwise; set one")


@dataclass(frozen=True, kw_only=True)
class ImageFolderConfig(DatasetConfig):
    """The user's own image files."""

    unused = ("download",)
    name: str = "image_folder"
    groups: str | None = field(default=None, metadata={"file": True})
    """A CSV file of the columns file, group: images of a group (a patient, a scene) never lie in two parts."""


def background_rgb(text: str) -> tuple[int, int, int]:
    """dataset.background as three values of 0 to 255. Raises UserError for another word."""
    named = {"white": "#ffffff", "black": "#000000"}.get(text, text)
    try:
        if len(named) != 7 or named[0] != "#" or not named.isascii():
            raise ValueError
        red, green, blue = bytes.fromhex(named[1:])
    except ValueError:
        raise UserError(f"dataset.background={text!r} must be white, black or #rrggbb") from None
    return red, green, blue
