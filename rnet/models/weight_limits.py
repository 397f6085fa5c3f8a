"""What a weight file may ask of this machine: judged by its header, before anything is read into memory."""

from __future__ import annotations

import json
import stat
import struct
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from rnet.errors import UserError

MOST_TENSORS = 50_000
"""The largest published classifiers have a few thousand."""
_SLACK = 2**20


def require_regular_file(path: Path) -> None:
    """Raises UserError for what is no ordinary file: a pipe or a device need not end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"weight file {path} is a pipe, a device or a socket; copy its content to a file and give that")


def check_safetensors(path: Path) -> None:
    """Raises UserError for a header with too many tensors, or one that is none."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 256 * MOST_TENSORS:
            raise _too_many(path, f"a header of {length} bytes")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return  # the library that reads it says what is wrong
    if isinstance(header, dict) and len(header) > MOST_TENSORS:
        raise _too_many(path, f"{len(header)} tensors")


def check_archive(path: Path) -> None:
    """Raises UserError for an archive of torch.save that has too many members, or that grows when it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return  # torch says what is wrong
    if len(members) > MOST_TENSORS:
        raise _too_many(path, f"{len(members)} members")
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > 2 * size + _SLACK:
        raise UserError(
            f"weight file {path} has {size} bytes and claims {unpacked} when unpacked, which torch.save never writes; "
            f"unpack it, or write it again with torch.save"
        )


def check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Raises UserError for a tensor that is no array of numbers in memory."""
    kind = (
        "is sparse" if tensor.layout is not torch.strided or tensor.is_nested
        else "is quantised" if tensor.is_quantized
        else "has a shape and no content (device meta)" if tensor.is_meta
        else None
    )  # fmt: skip
    if kind:
        raise UserError(f"weight file {path}: {name} {kind}; save it as an ordinary tensor of floating-point numbers")


def _too_many(path: Path, what: str) -> UserError:
    return UserError(
        f"weight file {path} has {what}, more than the {MOST_TENSORS} tensors that are read; it is no classifier"
    )
