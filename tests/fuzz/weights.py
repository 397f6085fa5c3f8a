"""Targets: files of weights, and what lies beside them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from rnet.models import origin
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.importing import import_weights
from rnet.models.resnet import SmallResNet
from tests.fuzz.target import Target

ABOUT = {
    "rnet": json.dumps({"model": {"name": "resnet8", "mean": [0.5], "std": [0.5], "stem": "small"}, "image_size": 8})
}
TIMM = {
    "architecture": "resnet18",
    "num_classes": 3,
    "label_names": ["a", "b", "c"],
    "model_args": {"drop_rate": 0.1},
    "pretrained_cfg": {
        "input_size": [3, 8, 8],
        "mean": [0.5],
        "std": [0.5],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    },
}
TOKENS = (
    *(b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x80\x02", b"\x80\x04", b"}q\x00", b"Q", b"R", b"ctorch\n", b"."),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"cbuiltins\neval\n"),
    *(
        b"ctorch\nFloatStorage\n",
        b"cpu",
        b"cuda:0",
        b"meta",
        b"(lp0\n",
        b"\x8c\x04name",
        b"N",
        b"K\x00",
        b"\x94",
        b"\x93",
    ),
    *(
        b'"dtype":"F32"',
        b'"BOOL"',
        b'"F8_E4M3"',
        b'"I64"',
        b'"shape":[',
        b'"data_offsets":[0,4]',
        b"[[[[",
        b"{}",
        b'"__metadata__"',
    ),
    *(b"conv1.weight", b"state_dict", b"module.", b"version", b"byteorder", b"data.pkl", b".data/serialization_id"),
)


@cache
def state() -> dict[str, torch.Tensor]:
    """The weights of the smallest network."""
    torch.manual_seed(0)
    return {name: tensor.contiguous() for name, tensor in SmallResNet(3, 1, 1).state_dict().items()}


def saved(content: object, **how: Any) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def _imported(path: Path) -> None:
    origin._known.clear()
    origin.model_origin(ModelConfig(name="resnet8", width=1, weights=str(path)), image_size=8)
    import_weights(Classifier(SmallResNet(3, 1, 1), [0.5], [0.5]), path)


def weights(data: bytes, folder: Path) -> None:
    path = folder / "weights"
    path.write_bytes(data)
    _imported(path)


def pickled(data: bytes, folder: Path) -> None:
    """The input is the pickle inside of a whole archive, whose other members and checksums are right."""
    with zipfile.ZipFile(io.BytesIO(saved(state()))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "weights", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)
    _imported(folder / "weights")


def beside(data: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(data)
    weights(safetensors_bytes(state()), folder)


def _zips() -> list[bytes]:
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in state().items()}, "epoch": 3, "args": None}
    small = {"conv1.weight": torch.ones(1, 1, 3, 3), "mean": torch.zeros(2, dtype=torch.float16)}
    return [saved(state()), saved(wrapped), saved(small), saved({"a": torch.eye(2).to_sparse(), "b": [1, "x"]})]


def _legacy() -> list[bytes]:
    old = {"_use_new_zipfile_serialization": False}
    return [
        saved(state(), **old),
        saved({"w": torch.ones(2), "n": 1}, **old),
        pickle.dumps({"a": [1.5]}),
        pickle.dumps(state()),
    ]


def _pickles() -> list[bytes]:
    found = []
    for content in _zips():
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found += [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    return found


def _safetensors() -> list[bytes]:
    return [
        safetensors_bytes(state(), ABOUT),
        safetensors_bytes({"w": torch.ones(2, 2), "b": torch.zeros(3).to(torch.int8)}),
    ]


TARGETS = [
    Target(name="weights, zip", weight=1, run=weights, seeds=_zips, tokens=TOKENS),
    Target(name="weights, pickle in zip", weight=0.7, run=pickled, seeds=_pickles, tokens=TOKENS),
    Target(name="weights, legacy", weight=2, run=weights, seeds=_legacy, tokens=TOKENS),
    Target(name="weights, safetensors", weight=4, run=weights, seeds=_safetensors, tokens=TOKENS),
    Target(
        name="config.json of timm", weight=0.2, run=beside, seeds=lambda: [json.dumps(TIMM).encode()], tokens=TOKENS
    ),
]
