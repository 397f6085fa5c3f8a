"""Weight files from strangers are only tensors; nothing in them runs."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from rnet.errors import UserError
from rnet.models.weights import choose_weights, load_weights, read_weights
from tests.bomb import Bomb

WEIGHTS = {"conv.weight": torch.arange(6.0).view(2, 3), "bn.count": torch.tensor(4)}


def assert_are_weights(found: dict[str, Tensor]) -> None:
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize("name", ["w.pt", "w.pth.tar", "W.CKPT", "noext", "w.safetensors"])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "net", "state_dict_ema", "module"])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saved_is_read_whatever_it_is_called(
    tmp_path: Path, name: str, key: str | None, zipped: bool
) -> None:
    content: dict[str, Any] = {key: WEIGHTS, "epoch": 3} if key else WEIGHTS
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert list(read_weights(tmp_path / name)) == [key or ""]
    assert_are_weights(load_weights(tmp_path / name))


def test_what_training_scripts_save_beside_weights_is_passed_over(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    beside = {
        "args": argparse.Namespace(lr=0.1, arch="resnet18"), "best": np.float64(0.93), "seen": np.int64(3),
        "optimizer": optimizer.state_dict(), "hyper_parameters": {"lr": 0.1}, "loss": torch.tensor(0.4),
    }  # fmt: skip
    torch.save({"epoch": 3, "model_state_dict": WEIGHTS, **beside}, tmp_path / "w.pt")
    assert_are_weights(load_weights(tmp_path / "w.pt"))


def test_of_several_sets_one_is_to_be_chosen(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "ema": {"shadow": {"a": torch.ones(1)}}}, tmp_path / "w.pt")
    found = read_weights(tmp_path / "w.pt")
    assert set(choose_weights(found, "w.pt", "ema.shadow")) == {"a"}
    with pytest.raises(
        UserError, match=r"several sets of weights: 'model', 'ema.shadow'; choose one.*weights_key=model"
    ):
        load_weights(tmp_path / "w.pt")
    with pytest.raises(
        UserError, match=r"weights_key='emma' is not in the weight file w\.pt, which holds 'model', 'ema"
    ):
        choose_weights(found, "w.pt", "emma")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "pointer of Git LFS.*git lfs pull"),
        (b"  <!DOCTYPE html><html><title>Sign in</title></html>", "a web page.*download it again"),
        (b"<?xml version='1.0'?><Error/>", "a web page"),
        (b'{"architectures": ["ResNet"]}', "JSON text"),
        (b"", "cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_people_take_for_weights_is_named(tmp_path: Path, content: bytes, said: str, suffix: str) -> None:
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_weights(tmp_path / f"w{suffix}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 1), torch.ones(1, 2)).save(tmp_path / "w.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match=r"TorchScript.*torch\.jit\.load"):
        load_weights(tmp_path / "w.pt")


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert_are_weights(load_weights(str(tmp_path / "w.safetensors")))


def test_a_parameter_called_model_is_a_parameter(tmp_path: Path) -> None:
    torch.save({"model": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert set(load_weights(tmp_path / "w.pt")) == {"model", "b"}


def test_parameters_come_back_as_plain_tensors(tmp_path: Path) -> None:
    torch.save({"a": nn.Parameter(torch.ones(1))}, tmp_path / "w.pt")
    assert not load_weights(tmp_path / "w.pt")["a"].requires_grad


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ({"a": torch.ones(1), "lr": 0.1}, "a float under 'lr'"),
        ({"a": [torch.ones(1)]}, "a list under 'a'"),
        ({1: torch.ones(1)}, "a Tensor under 1"),
        ([torch.ones(1)], "a list and not a dictionary"),
        ({"state_dict": {}}, "no tensors"),
        ({"a": {"b": 0.5}}, "no tensors"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object, holds: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=holds) as caught:
        load_weights(tmp_path / "w.pt")
    assert "w.pt" in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
def test_a_pickle_bomb_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    path, content = tmp_path / "w.pt", {"weight": torch.ones(2), "bomb": Bomb(tmp_path / "exploded")}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"could run code.*write it again") as caught:
        load_weights(path)
    assert form == "pickle" or "(posix.system)" in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_the_bomb_of_these_tests_is_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.pt", "does not exist"),
        ("folder.pt", "is a folder"),
        ("w.ckpt", "could run code|cannot be read"),
    ],
)
def test_a_path_that_is_no_weight_file_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "w.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match=said) as caught:
        load_weights(tmp_path / name)
    assert ".safetensors" in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@given(st.data())
@settings(deadline=None, max_examples=25)
def test_truncated_and_garbled_files_are_user_errors(
    form: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(
        data.draw(st.integers(0, len(content) - 1).map(lambda end: content[:end]) | st.binary(max_size=64))
    )
    with pytest.raises(UserError, match=str(path)):
        load_weights(path)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")

    def closed(path: Path, *arguments: Any, **named: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(UserError, match=r"w\.safetensors cannot be read: Permission denied; check its permissions"):
        read_weights(tmp_path / "w.safetensors")
