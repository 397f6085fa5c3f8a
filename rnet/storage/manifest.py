"""What a finished folder holds: each file with its size and SHA-256, so that nothing altered is taken for a result.

manifest.json is written before the file that makes a folder complete, so a complete folder always has one. It names the
folder itself, and carries the digest of its own content. Files that are only information are not listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from rnet.errors import UserError
from rnet.storage.files import IN_THE_WAY, open_file, read_file
from rnet.storage.json_files import digest_of_json, parse_json, write_json

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
"""Of the manifest's bytes, where somebody has signed them (signatures.py)."""
INFORMATION = ("lock", "status.json", "log.jsonl", "calibration.json", MANIFEST, SIGNATURE)
"""Files that change after a folder is complete, or that nothing is computed from."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file: its size in bytes and the SHA-256 of its content, in hexadecimal digits."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Entry:
        """Of a file's content."""
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def label_of(folder: Path) -> str:
    """How a manifest names its folder: stage and id."""
    return f"{folder.parent.name}/{folder.name}"


def listed_files(folder: Path) -> list[Path]:
    """The files that a manifest lists, by name: no folders, nothing unfinished or set aside, no mere information."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and path.name not in INFORMATION
        and not path.name.startswith(".")
        and path.suffix != ".damaged"
    )


def write_manifest(folder: Path, coming: Mapping[str, bytes]) -> None:
    """Lists the files that are there, and those about to be written with the content given."""
    files = {path.name: digest_of(path) for path in listed_files(folder)}
    files |= {name: Entry.of(data) for name, data in coming.items()}
    content = {"folder": label_of(folder), "files": {name: asdict(files[name]) for name in sorted(files)}}
    write_json(folder / MANIFEST, {**content, "sha256": digest_of_json(content)}, to_read=True)


def read_manifest(folder: Path, label: str | None = None) -> dict[str, Entry]:
    """The files that the folder must hold. Raises UserError if there is no manifest or it is damaged.

    label: how the manifest names the folder, where that has been moved.
    """
    path = folder / MANIFEST
    try:
        found = parse_json(read_file(path))
        content = {"folder": found["folder"], "files": found["files"]}
        whole = found.keys() == {"folder", "files", "sha256"} and found["sha256"] == digest_of_json(content)
        files = {str(name): Entry(**entry) for name, entry in content["files"].items()}
        whole = whole and all(Path(name).name == name and name.isprintable() for name in files)  # files of the folder
    except FileNotFoundError:
        raise UserError(
            f"{folder} has a result but no {MANIFEST} to check it by: it was removed, or rnet was older; `rnet store "
            f"verify --seal` takes the result as it is, or {again(folder)}"
        ) from None
    except OSError as error:
        if error.errno in IN_THE_WAY:
            raise UserError(f"{path} is damaged: {error.strerror}; {again(folder)}") from None
        raise UserError(f"cannot read {path}: {error.strerror}; check the owner of the store") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole, content, files = False, {}, {}
    if not whole:
        raise UserError(f"{path} is damaged; {again(folder)}")
    if content["folder"] != (label or label_of(folder)):
        raise UserError(f"{path} is that of {content['folder']}; {again(folder)}")
    return files


def check_file(folder: Path, name: str, files: Mapping[str, Entry]) -> Path:
    """The path of a file that is as the manifest says; large files are read once per process, in pieces.

    Raises UserError, saying what is wrong and what helps.
    """
    if problem := problem_of(folder / name, files.get(name)):
        raise UserError(f"{problem}; {again(folder)}")
    return folder / name


def problem_of(path: Path, entry: Entry | None) -> str | None:
    """What is wrong with a file, in words; None if it is as the manifest says."""
    if entry is None:
        return f"{path} is not in the folder's {MANIFEST}"
    try:
        found = digest_of(path)
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if found.size != entry.size:
        return f"{path} is damaged: it has {found.size} bytes instead of {entry.size}"
    return None if found == entry else f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}"


def problems_of(folder: Path) -> list[str]:
    """All that is wrong with a finished folder, in words; raises nothing."""
    try:
        files = read_manifest(folder)
    except UserError as error:
        return [str(error)]
    missing = [path for path in listed_files(folder) if path.name not in files]
    found = [problem_of(folder / name, entry) for name, entry in files.items()]
    return [problem for problem in found if problem] + [f"{path} is not in {MANIFEST}" for path in missing]


def digest_of(path: Path) -> Entry:
    """Size and digest of a file; what has been read in this process and not changed since is not read again."""
    stat = path.stat()
    return _digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=1024)
def _digest(path: Path, inode: int, size: int, mtime_ns: int, ctime_ns: int) -> Entry:
    with open_file(path) as file:
        return Entry(size=size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def again(folder: Path) -> str:
    """What helps where a folder is damaged."""
    return f"delete {folder}, or set it aside with `rnet store verify --fix`, and run the command again"
