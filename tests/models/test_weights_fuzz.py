"""Any bytes as a file of weights: a model, or one line that says why not; no other error, no hang, nothing written.

RNET_FUZZ is the number of inputs in all.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes

from rnet.errors import UserError
from rnet.models.classifier import Classifier
from rnet.models.config import ModelConfig
from rnet.models.importing import import_weights
from rnet.models.origin import model_origin
from rnet.models.resnet import SmallResNet

EXAMPLES = max(5, int(os.environ.get("RNET_FUZZ", "300")) // 5)
SECONDS = 30
"""Far more than any file of this size takes."""

pytestmark = pytest.mark.filterwarnings("ignore")


def fuzzed(test: Any) -> Any:
    quick = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    return quick(test)


def saved(content: object, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


torch.manual_seed(0)
STATE = SmallResNet(3, 1, 1).state_dict()
ABOUT = {
    "rnet": json.dumps({"model": {"name": "resnet8", "mean": [0.5], "std": [0.5], "stem": "small"}, "image_size": 8})
}
FILES = [
    safetensors_bytes({name: tensor.contiguous() for name, tensor in STATE.items()}, ABOUT),
    saved(STATE),
    saved(
        {"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}, "pretrained_cfg": {"mean": (0.5,)}}
    ),
    saved(STATE, _use_new_zipfile_serialization=False),
    pickle.dumps({name: tensor.tolist() for name, tensor in STATE.items()}),
    pickle.dumps(STATE),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, where any file written shows; a test that hangs is stopped."""
    folder, before = tmp_path_factory.mktemp("fuzz"), Path.cwd()
    os.chdir(folder)
    yield folder / "weights"
    os.chdir(before)


def attempt(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    refusal = None
    try:
        config = ModelConfig(name="resnet8", width=1, weights=str(place))
        model_origin(config, image_size=8)
        import_weights(Classifier(SmallResNet(3, 1, 1), [0.5], [0.5]), place)
    except UserError as error:
        refusal = str(error)
    finally:
        signal.alarm(0)
    if refusal is not None:
        assert "\n" not in refusal
        assert 20 < len(refusal) < 2000
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def _too_long(*_: object) -> None:
    raise AssertionError(f"more than {SECONDS} s")


def changed(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """The content after edits, each at a share of its length."""
    for kind, share, some in edits:
        at = int(share * len(content))
        if kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + some + content[at:]
        elif kind == "drop":
            content = content[:at] + content[at + len(some) :]
        else:
            content = content[:at] + some + content[at + len(some) :]
    return content


EDITS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "cut", "insert", "drop"]), st.floats(0, 1), st.binary(max_size=12)),
    min_size=1, max_size=6,
)  # fmt: skip


@fuzzed
@given(which=st.sampled_from(FILES), edits=EDITS)
def test_files_with_bytes_changed(which: bytes, edits: list[tuple[str, float, bytes]], place: Path) -> None:
    attempt(place, changed(which, edits))


@fuzzed
@given(which=st.sampled_from(FILES), share=st.floats(0, 0.06), some=st.binary(min_size=1, max_size=4))
def test_files_with_other_headers(which: bytes, share: float, some: bytes, place: Path) -> None:
    attempt(place, changed(which, [("write", share, some)]))


STARTS = st.sampled_from(
    [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"{", b"<html>"]
)


@fuzzed
@given(start=STARTS, some=st.binary(max_size=200), header=st.booleans())
def test_any_bytes(start: bytes, some: bytes, header: bool, place: Path) -> None:
    content = start + some
    attempt(place, struct.pack("<Q", len(content)) + b"{" + content if header else content)


TENSORS = st.builds(
    lambda shape, kind: torch.ones(shape).to(kind),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.bfloat16]),
)
VALUES = TENSORS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
KEYS = st.sampled_from(
    [*list(STATE)[:6], "state_dict", "model", "module", "pretrained_cfg", "mean", "std", "input_size", "crop_pct", ""]
) | st.text(max_size=6) | st.integers()  # fmt: skip
NESTED = st.recursive(
    VALUES,
    lambda inner: st.dictionaries(KEYS, inner, max_size=5) | st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=12,
)


@fuzzed
@given(content=NESTED, zipped=st.booleans(), whole=st.booleans())
def test_any_content_that_torch_saves(content: object, zipped: bool, whole: bool, place: Path) -> None:
    beside = {"state_dict": STATE, "pretrained_cfg": content, "other": content} if whole else content
    attempt(place, saved(beside, _use_new_zipfile_serialization=zipped))


@fuzzed
@given(content=NESTED, protocol=st.integers(0, 5), said=st.text(max_size=30))
def test_any_pickle_and_any_metadata(content: object, protocol: int, said: str, place: Path) -> None:
    attempt(place, pickle.dumps(content, protocol))
    attempt(place, safetensors_bytes({k: t.contiguous() for k, t in STATE.items()}, {"rnet": said}))
