"""Where the four files of Fashion-MNIST are."""

from __future__ import annotations

from pathlib import Path

from rnet.data.config import DatasetConfig
from rnet.data.download import data_folder, open_or_download
from rnet.errors import UserError

# Where the Debian package dataset-fashion-mnist puts the files.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def find_folder(config: DatasetConfig) -> Path:
    """The first folder that holds all four files, after a download if one is allowed and needed."""
    root = data_folder(config)
    downloaded = root / "FashionMNIST" / "raw"
    places = [root, downloaded] if config.folder else [SYSTEM_FOLDER, downloaded]
    for place in places:
        if not missing(place):
            return place
    if config.download:
        open_or_download(config, _download, "the four idx files of Fashion-MNIST")
        return downloaded
    looked = " and ".join(f"{place} ({_reason(place)})" for place in places)
    raise UserError(
        f"dataset=fashion_mnist was not found; looked in {looked}. Install the package dataset-fashion-mnist with "
        f"apt, set dataset.folder to a folder with the four idx files, or set dataset.download=true"
    )


def missing(folder: Path) -> list[str]:
    """Which of the four files the folder lacks."""
    return [name for name in FILES if find_file(folder, name) is None]


def _reason(folder: Path) -> str:
    lacking = missing(folder)
    if not folder.is_dir():
        return "no such folder"
    return f"lacks {', '.join(lacking)}" if len(lacking) < len(FILES) else "has none of the four idx files"


def find_file(folder: Path, name: str) -> Path | None:
    """The file of that name, compressed or not."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _download(folder: str, download: bool) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(folder, download=download)
