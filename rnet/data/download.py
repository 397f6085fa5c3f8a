"""Where dataset files are kept, and torchvision's datasets opened or downloaded there, one process at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rnet.data.config import DatasetConfig
from rnet.errors import UserError, first_line
from rnet.storage.files import holding

T = TypeVar("T")


def data_folder(config: DatasetConfig) -> Path:
    """dataset.folder, or ~/.cache/rnet/data."""
    return Path(config.folder or "~/.cache/rnet/data").expanduser()


def open_or_download(config: DatasetConfig, open_set: Callable[[str, bool], T], holds: str) -> T:
    """open_set(folder, download), with what can go wrong there as UserError. holds: what the folder has to hold.

    open_set signals absent or damaged files, as torchvision does, by a RuntimeError or an OSError.
    """
    folder = data_folder(config)
    try:
        if not config.download:
            return open_set(str(folder), False)
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):
            return open_set(str(folder), True)
    except (RuntimeError, OSError, ImportError) as error:
        reason = first_line(error).split(" You can use download=True")[0].rstrip(".")  # our own remedy follows
        if config.download:
            raise UserError(
                f"dataset={config.name} could not be downloaded to {folder}: {reason}; put {holds} there yourself"
            ) from error
        raise not_found(config, reason, holds) from error


def not_found(config: DatasetConfig, reason: str, holds: str) -> UserError:
    """Returns the error for files that are missing. holds: what the folder has to hold."""
    return UserError(
        f"dataset={config.name} was not found in {data_folder(config)}: {reason}; set dataset.folder to a folder that "
        f"holds {holds}, or dataset.download=true"
    )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second process of the same run from writing the same files; it waits, then finds them."""
    with (folder / ".download.lock").open("w") as lock, holding(lock):
        yield
