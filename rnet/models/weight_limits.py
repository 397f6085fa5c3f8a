"""What a weight file may ask of this machine: judged by its header, before anything is read into memory."""

from __future__ import annotations

import pickletools
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from rnet.errors import UserError
from rnet.storage.json_files import parse_json

MOST_TENSORS = 50_000
"""The largest published classifiers have a few thousand."""
_MOST_OPERATIONS = 20 * MOST_TENSORS
"""Steps of a pickle; a tensor takes some 30, and no classifier has near so many."""
_SLACK = 2**20
_USUAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def all_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a floating-point tensor are finite, without room of its size, which isfinite takes."""
    if tensor.dtype not in _USUAL or not tensor.numel():
        return bool(tensor.isfinite().all())
    return bool(torch.stack(tensor.aminmax()).isfinite().all())  # both are NaN if one number is


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
            header = parse_json(file.read(length))
        except ValueError:
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


def check_pickles(path: Path) -> None:
    """Raises UserError for pickles that rebuild too many tensors, which torch would take minutes to read.

    Of an archive of torch.save the pickle inside is looked at, of older files the few that they begin with.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith("data.pkl"):
                        with archive.open(member) as opened:
                            _check_operations(path, opened, 1)
        else:
            with path.open("rb") as file:
                _check_operations(path, file, 5)
    except UserError:
        raise
    except Exception:  # pickletools and zipfile raise almost anything
        return  # torch says what is wrong


def _check_operations(path: Path, file: IO[bytes], pickles: int) -> None:
    tensors = operations = 0
    for _ in range(pickles):
        for operation, _, _ in pickletools.genops(file):
            operations += 1
            tensors += operation.name in ("BINPERSID", "PERSID")
            if tensors > MOST_TENSORS or operations > _MOST_OPERATIONS:
                what = "tensors" if tensors > MOST_TENSORS else f"pickled values in {_MOST_OPERATIONS} steps"
                raise _too_many(path, f"over {MOST_TENSORS} {what}")


def check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Raises UserError for a tensor that is no array of numbers in memory."""
    kind = (
        "is sparse" if tensor.layout is not torch.strided or tensor.is_nested
        else "repeats the few values that the file has" if _grows(tensor)
        else "is quantised" if tensor.is_quantized
        else "has a shape and no content (device meta)" if tensor.is_meta
        else None
    )  # fmt: skip
    if kind:
        raise UserError(f"weight file {path}: {name} {kind}; save it as an ordinary tensor of floating-point numbers")


def check_count(path: Path, count: int) -> None:
    """Raises UserError for more tensors than are read; names may share one, so that the file is short."""
    if count > MOST_TENSORS:
        raise _too_many(path, f"{count} tensors")


def _grows(tensor: Tensor) -> bool:
    """Whether it is much larger than what is stored of it, as strides of 0 make it."""
    size = tensor.numel() * tensor.element_size()
    return not tensor.is_meta and size > _SLACK and size > tensor.untyped_storage().nbytes()


def _too_many(path: Path, what: str) -> UserError:
    return UserError(
        f"weight file {path} has {what}, more than the {MOST_TENSORS} tensors that are read; it is no classifier"
    )
