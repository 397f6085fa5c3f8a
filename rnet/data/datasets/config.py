"""The settings of data sets that cannot be downloaded by a program, or not without an account. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.checks import check_at_least_1, check_names
from rnet.data.config import OF_FOLDERS, DatasetConfig


@dataclass(frozen=True, kw_only=True)
class CINIC10Config(DatasetConfig):
    """The ten classes of CIFAR-10, from CIFAR-10 and ImageNet, in PNG files."""

    unused = ("download", *OF_FOLDERS)
    files_by = ("valid", "cifar10_images")
    name: str = "cinic10"
    valid: str = "unused"
    """Where the validation images belong: train, test, or unused."""
    cifar10_images: bool = True
    """Whether its images of CIFAR-10 are read; false for the images of ImageNet alone, 21 of 27."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        check_names("dataset.valid", [self.valid], "train", "test", "unused")


@dataclass(frozen=True, kw_only=True)
class TSRDConfig(DatasetConfig):
    """Chinese traffic signs, in PNG files with tables of boxes."""

    unused = ("download", *OF_FOLDERS)
    name: str = "tsrd"
    crop: bool = False
    """Whether each image is cut to the box of its sign before it is resized."""


@dataclass(frozen=True, kw_only=True)
class VGGFace2Config(DatasetConfig):
    """Faces of thousands of people, in a folder for each."""

    unused = ("download", *OF_FOLDERS)
    files_by = ("identities", "attribute")
    name: str = "vggface2"
    identities: int | None = None
    """The first so many people of the training folder, and of the test folder, in the order of their names."""
    attribute: str | None = None
    """Male: two classes, of people who are apart in all parts; None for the people themselves."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        if self.identities is not None:
            check_at_least_1("dataset", self, "identities")
        if self.attribute is not None:
            check_names("dataset.attribute", [self.attribute], "Male")


@dataclass(frozen=True, kw_only=True)
class HAM10000Config(DatasetConfig):
    """Skin lesions of seven kinds, in JPEG files with a table; images of one lesion stay together."""

    unused = ("download", *OF_FOLDERS)
    name: str = "ham10000"


@dataclass(frozen=True, kw_only=True)
class BCN20000Config(DatasetConfig):
    """Skin lesions of eight kinds: the images of ISIC 2019 from Barcelona; images of one lesion stay together."""

    unused = ("download", *OF_FOLDERS)
    name: str = "bcn20000"


@dataclass(frozen=True, kw_only=True)
class ImageNetConfig(DatasetConfig):
    """The thousand classes of ILSVRC 2012, as class folders or with the tables of the devkit or of Kaggle."""

    unused = ("download", "class_order")
    files_by = ("per_class",)
    name: str = "imagenet"
    per_class: int | None = None
    """The first so many training images of each class, in the order of their names; None for all, 1,281,167."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        if self.per_class is not None:
            check_at_least_1("dataset", self, "per_class")


@dataclass(frozen=True, kw_only=True)
class WebDatasetConfig(DatasetConfig):
    """The user's own images, in tar shards: dataset.folder is a folder, or an address with {000000..000099}."""

    unused = ("download", *OF_FOLDERS)
    name: str = "webdataset"
    cache: str | None = field(default=None, metadata={"execution_only": True})
    """A folder of this machine for copies of the shards; None reads a folder in place, and keeps what was fetched from
    a web server in ~/.cache/rnet/shards."""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceConfig(DatasetConfig):
    """The user's own images, or those of the Hub, in folders of Hugging Face's library datasets."""

    unused = ("download", *OF_FOLDERS)
    name: str = "huggingface"
    image_column: str | None = None
    """The column of the images; None for image, or the only one of the feature Image."""
    label_column: str | None = None
    """The column of the classes; None for label, or the only one of the feature ClassLabel."""
