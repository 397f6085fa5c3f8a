"""Weight files that come from outside: what is read, what is refused. A file is judged by its content, not its name."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from rnet.errors import UserError, first_line
from rnet.models.weight_limits import (
    check_archive,
    check_count,
    check_pickles,
    check_safetensors,
    check_tensor,
    require_regular_file,
)
from rnet.storage.json_files import parse_json

Weights = dict[str, Tensor]

_LARGEST_TEXT = 2**24
"""Up to this size a file is looked at as a whole, only to say better what it is."""
_WHOLE = ""
"""The name of a set of weights that is the whole file."""
_BESIDE = [argparse.Namespace, np.dtype, type(np.dtype("float64")), type(np.dtype("int64"))]
"""What training scripts save beside weights and cannot run code: command lines, and numbers of numpy."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a file holds: its sets of weights by where they stand, and what it says about them, as it was found.

    about: of safetensors, the metadata, texts by name; of what torch.save wrote, all that is no set of weights.
    """

    sets: dict[str, Weights]
    about: dict[str, Any]


def load_weights(path: Path | str) -> Weights:
    """The tensors of a weight file by parameter name, on the CPU, where it holds one set of them.

    Raises UserError if the file is missing, unreadable or holds anything but tensors. Never executes code from it.
    """
    return choose_weights(read_weights(path), path, None)


def choose_weights(found: Mapping[str, Weights], path: Path | str, key: str | None) -> Weights:
    """The set of weights named by the key; without one, the only set. Raises UserError where that is not clear."""
    names = ", ".join(repr(name) for name in found)
    if key is not None:
        if key not in found:
            raise UserError(f"model.weights_key={key!r} is not in the weight file {path}, which holds {names}")
        return found[key]
    if len(found) > 1:
        raise UserError(
            f"weight file {path} holds several sets of weights: {names}; choose one, e.g. "
            f"model.weights_key={next(iter(found))}"
        )
    return next(iter(found.values()))


def read_weights(path: Path | str) -> dict[str, Weights]:
    """Every set of weights in a file by where it stands ("state_dict", "model_ema", "model.module"; "" for all of it).

    Raises UserError as read_file does.
    """
    return read_file(path).sets


def read_file(path: Path | str) -> WeightFile:
    """Every set of weights in a file, and what the file says about them.

    The file: safetensors, or what torch.save wrote, now or before torch 1.6, whatever it is called. Raises UserError
    if it is missing, unreadable, something else, or holds no tensors. Never executes code from the file.
    """
    path = Path(path).expanduser()
    try:
        if not path.exists() or path.is_dir():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise UserError(
                f"weight file {path} {what}; give the path of a file of weights (.safetensors, .pt, .pth, ...)"
            )
        require_regular_file(path)
        content, about = _read(path)
    except OSError as error:
        raise UserError(
            f"weight file {path} cannot be read: {error.strerror or error}; check its permissions"
        ) from None
    if not isinstance(content, Mapping):
        raise _not_weights(path, f"a {type(content).__name__} and not a dictionary")
    found = dict(_sets(content, _WHOLE))
    check_count(path, sum(map(len, found.values())))
    for place, tensors in found.items():
        for name, tensor in tensors.items():
            check_tensor(path, f"{place}.{name}".lstrip("."), tensor)
    if not found:
        raise _not_weights(path, _what_it_holds(content))
    if _WHOLE not in found:
        about = {key: value for key, value in content.items() if isinstance(key, str) and key not in found}
    return WeightFile(sets=found, about=about)


def _sets(content: Mapping[Any, Any], place: str) -> list[tuple[str, Weights]]:
    """The content itself where all of it is tensors by name, else what stands under its keys."""
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return [(place, {key: value.detach() for key, value in content.items()})]
    inside = [(key, value) for key, value in content.items() if isinstance(key, str) and isinstance(value, Mapping)]
    return [found for key, value in inside for found in _sets(value, f"{place}.{key}".lstrip("."))]


def _what_it_holds(content: Mapping[Any, Any]) -> str:
    for key, value in content.items():
        if not isinstance(value, Mapping) and not (isinstance(key, str) and isinstance(value, Tensor)):
            return f"a {type(value).__name__} under {key!r}"
    return "no tensors"


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    """The content of the file, and the metadata of safetensors."""
    with path.open("rb") as file:
        start = file.read(512)
    try:
        if _is_safetensors(start, path.stat().st_size):
            check_safetensors(path)
            with safe_open(path, "pt", device="cpu") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
        check_archive(path)
        check_pickles(path)
        _refuse_what_is_known(path, start)
        # By an open file: torch reads safetensors by the file's name, whatever is inside.
        with path.open("rb") as file, torch.serialization.safe_globals([*_BESIDE, *_numpy_scalars()]):
            return torch.load(file, map_location="cpu", weights_only=True), {}
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"weight file {path} was refused: it is no file of tensors, or it holds Python objects"
            f"{f' ({culprit[1]})' if culprit else ''}, which could run code; if you trust it, write it again with "
            "torch.save(model.state_dict(), path) or as .safetensors"
        ) from error
    except Exception as error:  # arbitrary bytes make these readers raise almost anything, struct.error for one
        raise UserError(
            f"weight file {path} ({path.stat().st_size} bytes) cannot be read, it may be truncated or not be what its "
            f"name says: {first_line(error)}; copy or download it again and compare its size with the original"
        ) from error


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether it begins with the length of a JSON header, and the header."""
    return len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= size - 8


def _refuse_what_is_known(path: Path, start: bytes) -> None:
    """Raises UserError for what people take for weights, and says what it is."""
    if start.startswith(b"version https://git-lfs"):
        what, remedy = "a pointer of Git LFS, not the file itself", "fetch it with `git lfs pull`"
    elif re.match(rb"\s*(<!doctype|<html|<\?xml)", start, re.IGNORECASE):
        what, remedy = "a web page", "download it again, signed in where the site asks for it"
    elif start[:1] in b"{[" and _is_json(path):
        what, remedy = "JSON text", "give the file of weights that it describes"
    elif start.startswith(b"PK") and _is_torchscript(path):
        what, remedy = (
            "a TorchScript archive, which holds code",
            ("load it with torch.jit.load and write its weights with torch.save(module.state_dict(), path)"),
        )
    else:
        return
    raise UserError(f"weight file {path} is {what}; {remedy}")


def _is_json(path: Path) -> bool:
    if path.stat().st_size > _LARGEST_TEXT:
        return False
    try:
        parse_json(path.read_bytes())
    except ValueError:
        return False
    return True


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _numpy_scalars() -> list[Any]:
    """The function by which pickles make numpy's numbers, under both of its names."""
    scalar = np.float64(0).__reduce__()[0]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]


def _not_weights(path: Path, holds: str) -> UserError:
    return UserError(
        f"weight file {path} holds {holds}; expected tensors by parameter name, as from torch.save(model.state_dict(), "
        "path), alone or under a key"
    )
