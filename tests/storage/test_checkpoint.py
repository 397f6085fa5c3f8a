"""Checkpoints survive damage and crashes, refuse other runs, and run no code."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rnet.storage.files
from rnet.errors import UserError
from rnet.storage.checkpoint import Checkpoints
from tests.bomb import Bomb

IDENTITY = {"config": "0123abcd", "architecture": "resnet18"}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", identity=IDENTITY)


def filled(checkpoints: Checkpoints, *steps: int) -> Checkpoints:
    for step in steps:
        checkpoints.save(step, {"value": torch.full((4,), float(step))})
    return checkpoints


def latest_step(checkpoints: Checkpoints) -> int | None:
    step = checkpoints.latest()
    if step is not None:  # never the state of another step
        assert torch.equal(checkpoints.load(step)["value"], torch.full((4,), float(step)))
    return step


# ---------------------------------------------------------------- checkpoints


def test_a_training_state_comes_back_bit_for_bit(checkpoints: Checkpoints) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    scheduler.step()
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    state = {name: part.state_dict() for name, part in parts.items()}
    checkpoints.save(7, {**state, "nested": [1, 2.5, "text", None, True, {"half": torch.randn(2).bfloat16()}]})
    assert checkpoints.latest() == 7
    loaded = checkpoints.load(7)
    assert loaded["nested"][:5] == [1, 2.5, "text", None, True]
    assert loaded["nested"][5]["half"].dtype == torch.bfloat16
    assert loaded["scheduler"] == state["scheduler"]
    assert loaded["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    for index, buffers in state["optimizer"]["state"].items():
        assert torch.equal(loaded["optimizer"]["state"][index]["momentum_buffer"], buffers["momentum_buffer"])
    for name, tensor in state["model"].items():
        assert torch.equal(loaded["model"][name], tensor)
    fresh = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    fresh.load_state_dict(loaded["model"])


def test_without_a_checkpoint_there_is_nothing_and_no_warning(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoints.latest() is None
    assert not caplog.records
    assert not checkpoints.folder.exists()


def test_the_last_two_are_kept(checkpoints: Checkpoints) -> None:
    filled(checkpoints, 9, 10, 11)
    names = {path.name for path in checkpoints.folder.iterdir()}
    assert names == {"step-10.pt", "step-10.json", "step-11.pt", "step-11.json"}
    assert latest_step(checkpoints) == 11


def test_the_folder_is_private(checkpoints: Checkpoints) -> None:
    filled(checkpoints, 1)
    assert checkpoints.folder.stat().st_mode & 0o777 == 0o700


def cut(data: Path, marker: Path) -> None:
    data.write_bytes(data.read_bytes()[:-20])


def flip(data: Path, marker: Path) -> None:
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def empty(data: Path, marker: Path) -> None:
    data.write_bytes(b"")


def lose_the_file(data: Path, marker: Path) -> None:
    data.unlink()


def lose_the_marker(data: Path, marker: Path) -> None:
    marker.unlink()


def cut_the_marker(data: Path, marker: Path) -> None:
    marker.write_bytes(marker.read_bytes()[:30])


def replace_the_marker(data: Path, marker: Path) -> None:
    marker.write_text("[]")


DAMAGES = [cut, flip, empty, lose_the_file, lose_the_marker, cut_the_marker, replace_the_marker]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_one_before_with_a_warning(
    checkpoints: Checkpoints, damage: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    filled(checkpoints, 10, 20)
    damage(checkpoints.folder / "step-20.pt", checkpoints.folder / "step-20.json")
    with caplog.at_level(logging.WARNING):
        assert latest_step(checkpoints) == 10
    assert len(caplog.records) == 1
    assert "step-20.pt is damaged" in caplog.text


def test_if_all_are_damaged_the_run_starts_over_with_a_warning(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    filled(checkpoints, 10, 20)
    for step in (10, 20):
        flip(checkpoints.folder / f"step-{step}.pt", checkpoints.folder)
    assert checkpoints.latest() is None
    assert "no intact checkpoint" in caplog.text


def test_a_checkpoint_saved_after_a_fallback_wins_over_the_damaged_future(checkpoints: Checkpoints) -> None:
    filled(checkpoints, 100, 200)
    flip(checkpoints.folder / "step-200.pt", checkpoints.folder)
    assert latest_step(checkpoints) == 100
    filled(checkpoints, 150)
    assert {path.name for path in checkpoints.folder.glob("*.pt")} == {"step-100.pt", "step-150.pt"}
    assert latest_step(checkpoints) == 150


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    checkpoints.save(5, {"value": torch.zeros(4)})
    filled(checkpoints, 5)
    assert latest_step(checkpoints) == 5


@pytest.mark.parametrize("event", range(8))
def test_a_crash_at_any_system_call_of_a_save_loses_at_most_that_save(
    checkpoints: Checkpoints, event: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(checkpoints, 1, 2)
    calls = 0

    def crashing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > event:  # from here on the process is dead: nothing reaches the disk any more
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(rnet.storage.files.os, "fsync", crashing(os.fsync))
        patch.setattr(rnet.storage.files.os, "replace", crashing(os.replace))
        patch.setattr(Path, "unlink", crashing(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            filled(checkpoints, 3)
    # fsync, replace, fsync of the file, then of the marker: the marker's rename is the fifth call.
    assert latest_step(checkpoints) == (3 if event >= 5 else 2)
    filled(checkpoints, 3)
    assert latest_step(checkpoints) == 3
    assert {path.name for path in checkpoints.folder.iterdir()} == {
        f"step-{step}.{ending}" for step in (2, 3) for ending in ("pt", "json")
    }


def test_file_and_folder_are_synced_before_the_marker_appears(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        events.append("sync " + (name.rsplit(".", 2)[0].lstrip(".") if name.endswith(".tmp") else name))
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        events.append(f"rename {target.name}")
        real_replace(source, target)

    monkeypatch.setattr(rnet.storage.files.os, "fsync", sync)
    monkeypatch.setattr(rnet.storage.files.os, "replace", replace)
    filled(checkpoints, 3)
    assert events == [
        line for name in ("step-3.pt", "step-3.json") for line in (f"sync {name}", f"rename {name}", "sync checkpoints")
    ]


def test_a_checkpoint_of_another_run_is_refused_and_both_are_named(checkpoints: Checkpoints) -> None:
    filled(checkpoints, 1)
    other = Checkpoints(checkpoints.folder, identity={**IDENTITY, "config": "ffff0000"})
    with pytest.raises(UserError) as caught:
        other.latest()
    message = str(caught.value)
    assert "config='0123abcd'" in message
    assert "config='ffff0000'" in message
    assert "resnet18" not in message  # only what differs
    assert str(checkpoints.folder) in message


@pytest.mark.parametrize("identity", [{"config": "0123abcd"}, {**IDENTITY, "victim": "77"}])
def test_a_missing_or_an_additional_identity_is_another_run(checkpoints: Checkpoints, identity: dict[str, str]) -> None:
    filled(checkpoints, 1)
    with pytest.raises(UserError, match="None"):
        Checkpoints(checkpoints.folder, identity=identity).latest()


def test_a_save_removes_what_an_interrupted_one_left_and_nothing_else(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(checkpoints, 1)
    (checkpoints.folder / "notes.txt").write_text("mine")
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        killed.setattr(rnet.storage.files.os, "replace", lambda source, target: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            filled(checkpoints, 2)
    assert len(list(checkpoints.folder.iterdir())) == 4
    filled(checkpoints, 3)
    names = {"notes.txt", *(f"step-{step}.{kind}" for step in (1, 3) for kind in ("pt", "json"))}
    assert {path.name for path in checkpoints.folder.iterdir()} == names


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [1, {"b": object()}]}, r"state\['a'\]\[1\]\['b'\] is a object"),
        ({"a": {1.5: 2}}, r"state\['a'\] has the key 1.5"),
        ({"a": torch.ones(1).numpy()}, "is a ndarray"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    checkpoints: Checkpoints, state: dict[str, Any], place: str
) -> None:
    with pytest.raises(TypeError, match=place):
        checkpoints.save(1, state)
    assert checkpoints.latest() is None


def test_a_pickle_bomb_with_a_matching_marker_is_refused_and_not_run(checkpoints: Checkpoints, tmp_path: Path) -> None:
    filled(checkpoints, 1)
    data, marker_path = checkpoints.folder / "step-1.pt", checkpoints.folder / "step-1.json"
    torch.save({"value": Bomb(tmp_path / "exploded")}, data)
    marker = json.loads(marker_path.read_text())
    marker |= {
        "size": data.stat().st_size,
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
    }
    marker_path.write_text(json.dumps(marker))
    with pytest.raises(UserError, match="refused"):
        checkpoints.load(1)
    assert not (tmp_path / "exploded").exists()
