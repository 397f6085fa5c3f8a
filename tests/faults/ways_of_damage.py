"""What can happen to a file: each function does it to one that exists."""

from __future__ import annotations

import ctypes
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any


def flip(path: Path, draw: random.Random) -> None:
    """Flips one bit; an empty file gets a byte."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(8 * len(data)) if data else 0
    data = data or bytearray(1)
    data[place // 8] ^= 1 << (place % 8)
    path.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    """Cuts it off anywhere."""
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(max(1, len(data)))])


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def garbage(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(draw.choice((1, 100, 5000))))


def torn(path: Path, draw: random.Random) -> None:
    """A block of zeros, as a file system leaves it after a power failure."""
    data = bytearray(path.read_bytes())
    start = draw.randrange(max(1, len(data)))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(data)


def other_shape(path: Path, draw: random.Random) -> None:
    """JSON, and so YAML, of another shape."""
    shapes: list[Any] = [[], {}, None, 5, "text", {"a": {"b": []}}, [{}], True, {"stage": []}, {"files": 5}]
    path.write_text(json.dumps(draw.choice(shapes)))


def folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path, draw: random.Random) -> None:
    """A link to what is not there."""
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def circle(path: Path, draw: random.Random) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path)


def link_to_other(path: Path, draw: random.Random) -> None:
    """A link to another file of the same folder, or to /dev/null."""
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    path.unlink()
    path.symlink_to(draw.choice(others or [Path("/dev/null")]))


def fifo(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def missing(path: Path, draw: random.Random) -> None:
    path.unlink()


def closed(path: Path, draw: random.Random) -> None:
    """Not to be read or written."""
    path.chmod(0)


def closed_folder(path: Path, draw: random.Random) -> None:
    """In a folder that is not to be entered or listed."""
    path.parent.chmod(0)


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "a flipped bit": flip, "truncated": truncate, "emptied": empty, "garbage": garbage, "a block of zeros": torn,
    "JSON of another shape": other_shape, "a folder instead": folder, "a dangling link": dangling,
    "a link to itself": circle, "a link to another file": link_to_other, "a FIFO": fifo, "missing": missing,
    "no permission": closed, "no permission for its folder": closed_folder,
}  # fmt: skip


_VERSION, _OVERRIDE, _SEARCH = 0x20080522, 1 << 1, 1 << 2


def without_privileges() -> None:
    """Lets permissions hold for this process also if it is root's: it gives up CAP_DAC_OVERRIDE and its like."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0, os.strerror(ctypes.get_errno())
    for place in (0, 1):  # effective and permitted
        data[place] &= ~(_OVERRIDE | _SEARCH)
    assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())
