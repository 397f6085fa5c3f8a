"""Where published data sets are looked for, and what to download where they are not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rnet.data.config import DatasetConfig
from rnet.data.download import data_folder
from rnet.data.files.names import some
from rnet.errors import UserError, first_line


@dataclass(frozen=True, kw_only=True)
class Place:
    """folders: names below dataset.folder, tried before it. files: what to unpack there. page: where that is from."""

    folders: tuple[str, ...]
    files: str
    page: str


PLACES = {
    "cinic10": Place(
        folders=("CINIC-10", "cinic-10", "cinic10"),
        files="CINIC-10.tar.gz (folders train, valid and test)",
        page="https://datashare.ed.ac.uk/handle/10283/3192",
    ),
    "tsrd": Place(
        folders=("TSRD", "tsrd"),
        files="tsrd-train.zip, TSRD-Test.zip, 'TSRD-Train Annotation.zip' and 'TSRD-Test Annotation.zip'",
        page="http://www.nlpr.ia.ac.cn/pal/trafficdata/recognition.html",
    ),
    "vggface2": Place(
        folders=("VGGFace2", "vggface2"),
        files="vggface2_train.tar.gz, vggface2_test.tar.gz and identity_meta.csv",
        page="https://www.robots.ox.ac.uk/~vgg/data/vgg_face2/",
    ),
    "ham10000": Place(
        folders=("HAM10000", "ham10000"),
        files="HAM10000_metadata, HAM10000_images_part_1.zip and HAM10000_images_part_2.zip",
        page="https://doi.org/10.7910/DVN/DBW86T",
    ),
    "bcn20000": Place(
        folders=("BCN20000", "bcn20000", "ISIC2019", "ISIC_2019"),
        files="ISIC_2019_Training_Input.zip, ISIC_2019_Training_GroundTruth.csv and ISIC_2019_Training_Metadata.csv",
        page="https://challenge.isic-archive.com/data/#2019",
    ),
    "lfw": Place(
        folders=("", "LFW", "lfw"),
        files="lfw-funneled.tgz (from https://ndownloader.figshare.com/files/5976015) and lfw_attributes.txt",
        page="https://www.cs.columbia.edu/CAVE/databases/pubfig/download/lfw_attributes.txt",
    ),
    "imagenet": Place(
        folders=("imagenet", "ImageNet", "ILSVRC2012"),
        files="ILSVRC2012_img_train.tar (one folder train/<wnid> a class), ILSVRC2012_img_val.tar (the folder val) and "
        "ILSVRC2012_devkit_t12.tar.gz",
        page="https://image-net.org/download-images.php",
    ),
}


def place_of(config: DatasetConfig, *patterns: str) -> Path:
    """The first of the data set's places in which one of the patterns fits a file or folder.

    Raises FileNotFoundError if there is none.
    """
    root = data_folder(config)
    for folder in (*(root / name for name in PLACES[config.name].folders), root):
        if any(any(folder.glob(pattern)) for pattern in patterns):
            return folder
    names = [pattern.replace("[0-9]*", "...") for pattern in patterns]
    raise FileNotFoundError(f"there is {'no' if len(names) == 1 else 'none of'} {some(names)}")


def not_readable(config: DatasetConfig, error: OSError) -> UserError:
    """Returns the error for files that are missing or damaged: what to download, and where to put it."""
    place, root = PLACES[config.name], data_folder(config)
    named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else first_line(error)
    return UserError(
        f"dataset={config.name} cannot be read from {root}: {named}; download {place.files} from {place.page} and "
        f"unpack all into {root / place.folders[0]}, or set dataset.folder to the folder that holds them"
    )
