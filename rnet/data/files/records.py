"""What a store remembers of the folders that its data sets were read from: <root>/seen/<folder>.json."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rnet.data.files.names import counted, some
from rnet.errors import UserError
from rnet.storage.files import locked
from rnet.storage.json_files import read_information, write_information
from rnet.storage.shapes import fits


class FileState(NamedTuple):
    """A file when it was looked at. sha256: of its content, None if that was not read.

    settled: whether it had been left alone for long enough before, so that size and times tell of every later change.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str | None = None
    settled: bool = False

    def vouches_for(self, other: FileState) -> bool:
        """Whether the other, whose content was not read, must have the content of this one."""
        return self.settled and self.sha256 is not None and self[:3] == other[:3]


Files = Mapping[str, FileState]
"""By name, relative to the folder."""


def record_path(root: Path | None, dataset: str, folder: str) -> Path | None:
    """Where the record of a folder is kept; None without a store."""
    name = hashlib.sha256(f"{dataset}:{folder}".encode(errors="surrogateescape")).hexdigest()[:16]
    return None if root is None else root / "seen" / f"{name}.json"


def folders_seen(root: Path, dataset: str) -> list[str]:
    """The folders that a data set (digest.record_name) was read from for this store."""
    found = []
    for path in sorted((root / "seen").glob("*.json")):
        with suppress(UserError, KeyError, TypeError):  # a damaged record, or one of something else
            folder = read_information(path, sealed=True)["folder"]
            if path == record_path(root, dataset, folder):
                found.append(folder)
    return found


def read_record(path: Path | None) -> dict[str, FileState] | None:
    """The files of a folder as the store saw them last; None if it never did."""
    record = None if path is None else read_information(path, sealed=True)
    if not record or not fits(record, {"files": {str: [(int, str, bool, type(None))]}}):
        return None  # only information: the files are read again
    if any(not 3 <= len(state) <= 5 for state in record["files"].values()):
        return None
    return {name: FileState(*state) for name, state in record["files"].items()}


def write_record(path: Path | None, folder: str, files: Files) -> None:
    """Keeps the record, in one piece."""
    write_kept(path, {"folder": folder, "files": dict(files)})


def write_kept(path: Path | None, document: Mapping[str, Any]) -> None:
    """Writes what would otherwise have to be found out again; a store that may only be read is left as it is."""
    with suppress(UserError):
        if path is not None:
            write_information(path, dict(document))


@contextmanager
def record_lock(path: Path | None) -> Iterator[None]:
    """Inside, no other process reads the folder's files for this store. None, or a store to read only: no waiting."""
    if path is None or not os.access(path.parent if path.parent.exists() else path.parent.parent, os.W_OK):
        yield
        return
    with locked(path.with_suffix(".lock")):
        yield


def differences(before: Files, now: Files) -> str | None:
    """What has changed: "2 files were added (a, b) and 1 has other content (c)"; None if nothing that ids name.

    Where a content was not read, another size or time counts as a change.
    """
    added, removed = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    other = sorted(name for name in now.keys() & before.keys() if _differs(before[name], now[name]))
    found = [
        f"{counted(len(names), 'file')} {what} ({some(names)})"
        for names, what in ((added, "added"), (removed, "removed"), (other, "with other content"))
        if names
    ]
    return ", ".join(found) or None


def _differs(before: FileState, now: FileState) -> bool:
    if before.sha256 is not None and now.sha256 is not None:
        return before.sha256 != now.sha256
    return (before.size, before.mtime_ns) != (now.size, now.mtime_ns)
