"""Tar files of samples as WebDataset writes them: key.jpg and key.cls beside one another, thousands in a shard.

A shard is indexed by its headers once, and a sample is then read at its place, in any order: nothing is unpacked, and
an epoch takes each image exactly once.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Self

from rnet.data.config import DatasetConfig
from rnet.data.files.copies import copied, fetched
from rnet.data.files.names import is_system, shown, some
from rnet.errors import UserError, first_line

CLASSES = "classes.txt"
"""Beside the shards, if it is there: the names of the classes, one a line."""
_LABEL = ".cls"
_MOST_LABEL_BYTES = 32
_IS_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst|lz4))$", re.IGNORECASE)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class Member(str):
    """The path of a file in a shard, SHARD/NAME, which says where in the shard its content is, in bytes."""

    shard: str
    offset: int
    size: int

    @classmethod
    def of(cls, shard: str, name: str, offset: int, size: int) -> Self:
        """The member of that name."""
        member = cls(f"{shard}/{name}")
        member.shard, member.offset, member.size = shard, offset, size
        return member

    def read(self) -> bytes:
        """Its content. Raises OSError if the shard has become shorter."""
        content = os.pread(_descriptor(os.getpid(), self.shard), self.size, self.offset)
        if len(content) < self.size:
            raise OSError(f"the shard ends within it, {self.size - len(content)} bytes too early")
        return content


def content_of(path: str) -> bytes:
    """What a file, or a member of a shard, holds. Raises OSError if it cannot be read."""
    return path.read() if isinstance(path, Member) else Path(path).read_bytes()


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The samples of one shard in their order. cut: what is wrong where it ends too early, else "".

    strays: image files that are of no sample: links, and names with more than one dot. bare: labels without an image.
    """

    images: list[Member]
    labels: list[int]
    cut: str = ""
    strays: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()


def read_shards(paths: list[str], suffixes: frozenset[str]) -> list[Shard]:
    """The samples of all shards. Raises UserError that names what is no tar file, or a sample without a label."""
    with ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0)) + 4)) as threads:
        return list(threads.map(lambda path: _read_shard(path, suffixes), paths))


def _read_shard(path: str, suffixes: frozenset[str]) -> Shard:
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    strays: list[tuple[str, str]] = []  # with the sample that they would be of
    cut = ""
    try:
        for name, offset, size in _members(path):
            key, suffix = _split(name)
            if any(is_system(part) for part in name.split("/") if part.strip(".")):
                continue
            if "." + suffix.rpartition(".")[2] in suffixes and (size < 0 or suffix not in suffixes):
                strays.append((key, name))
            elif size < 0:
                continue
            elif offset + size > os.path.getsize(path):
                raise tarfile.ReadError("it ends within " + name)
            elif suffix in (_LABEL, *suffixes) and key in (labels if suffix == _LABEL else images):
                kind = "labels" if suffix == _LABEL else "images"
                raise UserError(f"{shown(path)} holds two {kind} of the sample {shown(key)}; keep one")
            elif suffix in suffixes:
                images[key] = Member.of(path, name, offset, size)
            elif suffix == _LABEL:
                labels[key] = _label(path, name, offset, size)
    except UserError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:  # as tarfile reads damaged headers
        wrong = "ends too early" if images else "is no tar file that can be read"
        cut = f"{shown(path)} {wrong} ({first_line(error)})"
        labels = {key: label for key, label in labels.items() if key in images}
        images = {key: image for key, image in images.items() if key in labels}
    if unlabelled := [key for key in images if key not in labels]:
        raise UserError(
            f"{shown(path)} has {len(unlabelled):,} images without a label, e.g. of the sample {shown(unlabelled[0])}; "
            f"write a file {shown(unlabelled[0])}{_LABEL} with the number of its class beside each"
        )
    return Shard(
        images=list(images.values()),
        labels=[labels[key] for key in images],
        cut=cut,
        strays=tuple(f"{path}/{name}" for key, name in strays if key not in images),
        bare=tuple(f"{path}/{key}{_LABEL}" for key in sorted(labels.keys() - images.keys() - dict(strays).keys())),
    )


def _members(path: str) -> Iterator[tuple[str, int, int]]:
    """(name, place of its content, size) of every file of a tar file without compression; size -1: without content."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isdir():
                    held = member.isreg() and not member.issparse()
                    yield member.name, member.offset_data, member.size if held else -1
            at = tar.offset
        _require_end(path, at)
    except tarfile.ReadError:
        if os.pread(_descriptor(os.getpid(), path), 6, 0).startswith(_COMPRESSED):
            raise UserError(f"{shown(path)} is compressed, so that its samples cannot be reached one by one; unpack it"
                            ) from None  # fmt: skip
        raise
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror or error}; check it") from None


def _require_end(path: str, at: int) -> None:
    """Only zeros come from there on: tarfile passes over a header that is cut, and over a second archive behind."""
    with open(path, "rb") as file:
        file.seek(at)
        block = file.read(tarfile.BLOCKSIZE)
        if block != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end mark is missing")
        while block:
            if block.count(0) < len(block):
                raise tarfile.ReadError(f"its end mark is at byte {at:,}, and more comes behind it")
            block = file.read(2**20)


def _split(name: str) -> tuple[str, str]:
    """(key, suffix): WebDataset's key ends at the first dot of the last part of the name; the suffix in lower case."""
    place = PurePosixPath(name)
    stem, dot, rest = place.name.partition(".")
    return str(place.parent / stem), (dot + rest).lower()


def _label(path: str, name: str, offset: int, size: int) -> int:
    content = os.pread(_descriptor(os.getpid(), path), min(size, _MOST_LABEL_BYTES), offset)
    text = content.decode(errors="replace").strip()
    if size > _MOST_LABEL_BYTES or not text.isdecimal() or not text.isascii():
        raise UserError(f"{shown(path)}/{shown(name)} holds {text!r}, not the number of a class from 0 on")
    return int(text)


def shards_of(config: DatasetConfig) -> tuple[Path, tuple[str, ...]]:
    """The folder, and the names below it of all files that are read, copied there first if they are elsewhere.

    Raises UserError if there are none, or not all can be had.
    """
    if config.folder is None:
        raise UserError("dataset=webdataset needs dataset.folder, a folder of .tar shards or their http address")
    cache: str | None = getattr(config, "cache", None)
    if "://" in config.folder:
        folder, names = fetched(config.folder, cache, beside=CLASSES)
        return folder, _with_classes(folder, names)
    folder = Path(config.folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.folder={config.folder!r} is not a folder; give one with .tar shards")
    found = _files_below(folder)
    names = [name for name in found if name.lower().endswith(".tar")]
    if compressed := [name for name in found if _IS_COMPRESSED.search(name)]:
        raise UserError(
            f"{shown(folder)} holds compressed shards, whose samples cannot be reached one by one: {some(compressed)}; "
            f"unpack them, or move them elsewhere"
        )
    if not names:
        raise UserError(f"{shown(folder)} holds no .tar shard")
    files = _with_classes(folder, names)
    return (folder if cache is None else copied(folder, files, cache)), files


def _files_below(folder: Path) -> list[str]:
    """Names below it of all files but the system's, sorted; links are followed, each real folder once."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{shown(str(error.filename))} cannot be listed: {error.strerror}; check its permissions")

    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        below = os.path.realpath(place)
        folders[:] = [] if below in seen else sorted(name for name in folders if not is_system(name))
        found += [] if below in seen else [os.path.join(place, name) for name in files if not is_system(name)]
        seen.add(below)
    return sorted(os.path.relpath(path, folder) for path in found)


def _with_classes(folder: Path, names: list[str]) -> tuple[str, ...]:
    return (*names, *((CLASSES,) if (folder / CLASSES).is_file() else ()))


@lru_cache(maxsize=2048)
def _descriptor(process: int, path: str) -> int:
    """The open shard, of this process: worker processes inherit the cache, and share no place in a file they pread."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
