"""Weight files from strangers are only tensors; nothing in them runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from rnet.errors import UserError
from rnet.models.weights import load_weights
from tests.bomb import Bomb

WEIGHTS = {"conv.weight": torch.arange(6.0).view(2, 3), "bn.count": torch.tensor(4)}


def assert_are_weights(found: dict[str, Tensor]) -> None:
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_are_read_with_their_usual_wrappings(
    tmp_path: Path, suffix: str, wrapper: str | None, prefix: str
) -> None:
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / f"w{suffix}")
    assert_are_weights(load_weights(tmp_path / f"w{suffix}"))


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert_are_weights(load_weights(str(tmp_path / "w.safetensors")))


def test_the_prefix_is_kept_where_not_every_name_has_it(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert set(load_weights(tmp_path / "w.pt")) == {"module.a", "b"}


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
        ("w.ckpt", r"ends in '\.ckpt'"),
        ("w", "ends in ''"),
    ],
)
def test_a_path_that_is_no_weight_file_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    for file in ("w.ckpt", "w"):
        (tmp_path / file).write_bytes(b"x")
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
