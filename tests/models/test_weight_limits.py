"""Weight files that ask for more than a classifier can be: refused by their header, in one line."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rnet.errors import UserError
from rnet.models.weight_limits import MOST_TENSORS
from rnet.models.weights import read_weights


def saved(path: Path, tensor: torch.Tensor) -> None:
    torch.save({"w": tensor}, path)


def bomb(path: Path) -> None:
    """A few kilobytes that unpack to 64 MiB."""
    saved(path, torch.ones(4))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, bytes(2**26) if name.endswith("data/0") else data)


def crowded(path: Path) -> None:
    """A safetensors header with one tensor more than is read; all have the same four bytes."""
    about = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps(dict.fromkeys(map(str, range(MOST_TENSORS + 1)), about)).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def long_header(path: Path) -> None:
    """A header that alone is larger than that of any classifier."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**26) + b"{")
        file.truncate(2**26 + 8)


def members(path: Path) -> None:
    """An archive with very many members."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(MOST_TENSORS + 1):
            archive.writestr(f"archive/data/{number}", b"")


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (lambda path: os.mkfifo(path), "is a pipe"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "a bomb": (bomb, "claims 6"),
    "too many tensors": (crowded, f"{MOST_TENSORS + 1} tensors"),
    "a long header": (long_header, "a header of"),
    "too many members": (members, f"{MOST_TENSORS + 1} members"),
    "sparse": (lambda path: saved(path, torch.eye(3).to_sparse()), "w is sparse"),
    "nested": (lambda path: saved(path, torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])), "weight file"),
    "without content": (lambda path: saved(path, torch.empty(3, device="meta")), "no content"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_no_classifier_can_be_is_refused_by_its_header(case: str, tmp_path: Path) -> None:
    make, said = CASES[case]
    make(path := tmp_path / "weights.pt")
    with pytest.raises(UserError, match=said) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_an_ordinary_archive_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "w.pt", torch.zeros(1000, 1000))
    assert read_weights(tmp_path / "w.pt")[""]["w"].shape == (1000, 1000)
