"""Weight files that ask for more than a classifier can be: refused by their header, in one line."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rnet.errors import UserError
from rnet.models import weight_limits
from rnet.models.classifier import Classifier
from rnet.models.importing import import_weights
from rnet.models.resnet import SmallResNet
from rnet.models.weights import read_weights

FEW = 1000
"""As many tensors as are read here, so that files of more are made quickly."""


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_limits, "MOST_TENSORS", FEW)
    monkeypatch.setattr(weight_limits, "_MOST_OPERATIONS", 20 * FEW)


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
    header = json.dumps(dict.fromkeys(map(str, range(FEW + 1)), about)).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def long_header(path: Path) -> None:
    """A header that alone is larger than that of any classifier."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**26) + b"{")
        file.truncate(2**26 + 8)


def members(path: Path) -> None:
    """An archive with very many members."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(FEW + 1):
            archive.writestr(f"archive/data/{number}", b"")


OLD: dict[str, Any] = {"_use_new_zipfile_serialization": False}


def many_names(path: Path, how: dict[str, Any]) -> None:
    """One tensor under one name more than are read."""
    torch.save(dict.fromkeys(map(str, range(FEW + 1)), torch.ones(1)), path, **how)


def own_tensors(path: Path) -> None:
    """As the pickle of such a file, of which no storage follows, for it is refused by its pickle."""
    names = "".join(f"S'{number}'\nS'{number}'\nQs" for number in range(FEW + 1))
    with path.open("wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        file.write(f"\x80\x02}}{names}.".encode("latin-1"))


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (lambda path: os.mkfifo(path), "is a pipe"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "a bomb": (bomb, "claims 6"),
    "too many tensors": (crowded, f"{FEW + 1} tensors"),
    "a long header": (long_header, "a header of"),
    "too many members": (members, f"{FEW + 1} members"),
    "one tensor under many names": (lambda path: many_names(path, {}), f"{FEW + 1} tensors"),
    "the same before torch 1.6": (lambda path: many_names(path, OLD), f"{FEW + 1} tensors"),
    "very many tensors before torch 1.6": (lambda path: own_tensors(path), f"over {FEW} tensors"),
    "very many values": (lambda path: torch.save({"a": [0.5] * 40_000}, path, **OLD), "pickled values in 20000"),
    "few values repeated": (lambda path: saved(path, torch.ones(1).expand(10**12)), "w repeats the few values"),
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


STATE = SmallResNet(3, 1, 1).state_dict()
KINDS = {"bool": torch.bool, "int8": torch.int8, "complex64": torch.complex64}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_would_be_converted_without_a_word_are_refused(kind: str, tmp_path: Path) -> None:
    torch.save({name: tensor.to(KINDS[kind]) for name, tensor in STATE.items()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=f"conv1.weight is of {kind}, not of floating-point numbers"):
        import_weights(Classifier(SmallResNet(3, 1, 1), [0.5], [0.5]), tmp_path / "w.pt")


def test_a_negative_variance_is_refused_and_half_precision_is_taken(tmp_path: Path) -> None:
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}
    torch.save(halves, tmp_path / "w.pt")
    assert import_weights(Classifier(SmallResNet(3, 1, 1), [0.5], [0.5]), tmp_path / "w.pt") == ""
    torch.save({**STATE, "bn1.running_var": -STATE["bn1.running_var"]}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"bn1\.running_var has a negative variance"):
        import_weights(Classifier(SmallResNet(3, 1, 1), [0.5], [0.5]), tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    values = torch.linspace(-1, 1, 3 * 5 * 7, dtype=torch.float64).mul(largest).to(dtype).view(3, 5, 7)
    assert weight_limits.all_finite(values)
    assert weight_limits.all_finite(values[:0])
    for number in (float("nan"), float("inf"), -float("inf")):
        for place in ((0, 0, 0), (1, 3, 2), (2, 4, 6)):
            wrong = values.clone()
            wrong[place] = number
            assert not weight_limits.all_finite(wrong)
            assert not weight_limits.all_finite(wrong.transpose(0, 2))
