"""`rnet store` and `rnet status`, as they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rnet.command.app import make_app
from rnet.stages import stages
from rnet.stages.store import Store
from tests.tiny_runs import TINY, tiny

APP = make_app(completion=False)


def call(*arguments: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(APP, list(arguments))
    return found.exit_code, found.stdout, found.stderr


def test_a_damaged_store_is_told_with_status_2_and_mended_with_fix(tmp_path: Path) -> None:
    folder = stages.train(tiny(), Store(tmp_path)).path
    assert call("store", "verify", "--root", str(tmp_path))[:2] == (
        0,
        f"1 finished stages in {tmp_path}, 0 of them damaged\n",
    )
    (folder / "model.safetensors").write_bytes(b"x")
    status, out, error = call("store", "verify", "--root", str(tmp_path))
    assert status == 2
    assert "bytes instead of" in out
    assert "set them aside with --fix" in error
    assert call("store", "verify", "--fix", "--root", str(tmp_path))[0] == 0
    assert not folder.exists()
    status, out, _ = call("store", "gc", "--json", "--root", str(tmp_path))
    assert (status, json.loads(out)["removed"]) == (0, ["quarantine"])


def test_stages_are_carried_by_a_file(tmp_path: Path) -> None:
    folder = stages.train(tiny(), Store(tmp_path / "a"))
    file = str(tmp_path / "stages.tar")
    assert call("store", "export", file, folder.label, "--root", str(tmp_path / "a"))[0] == 0
    status, out, _ = call("store", "import", file, "--json", "--root", str(tmp_path / "b"))
    assert (status, json.loads(out)) == (0, {"imported": [folder.label], "known": []})
    status, out, _ = call("store", "size", "--json", "--root", str(tmp_path / "b"))
    assert json.loads(out)["train"]["finished"] == 1


def test_a_damaged_stage_is_computed_again_on_request(tmp_path: Path) -> None:
    root = ["--root", str(tmp_path)]
    folder = stages.train(tiny(), Store(tmp_path)).path
    kept = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"x" + kept[1:])
    status, out, _ = call("store", "verify", "--recompute", *root)
    assert status == 0
    assert f"train/{folder.name} was computed again: its bytes are those of before" in out
    assert (folder / "model.safetensors").read_bytes() == kept
    (folder / "config.yaml").write_text("{}")
    status, out, error = call("store", "verify", "--recompute", *root)
    assert status == 2
    assert "no other stage names" in error
    assert json.loads(call("store", "verify", "--recompute", "--json", *root)[1])["recomputed"] == []


def test_signed_stages_are_told_from_others_here_and_elsewhere(tmp_path: Path) -> None:
    folder = stages.train(tiny(), Store(tmp_path / "a"))
    root, file, key = ["--root", str(tmp_path / "a")], str(tmp_path / "stages.tar"), str(tmp_path / "key")
    for name in (key, f"{key}2"):
        assert call("store", "keygen", name)[0] == 0
    status, _, error = call("store", "verify", "--signed-by", f"{key}.pub", *root)
    assert status == 2
    assert "nobody has signed" in error
    assert call("store", "export", f"{file}.unsigned", *root)[0] == 0
    assert call("store", "sign", folder.label, "--key", key, *root)[0] == 0
    assert call("store", "verify", "--signed-by", f"{key}.pub", *root)[0] == 0
    assert call("store", "export", file, *root)[0] == 0
    there = ["--root", str(tmp_path / "b")]
    status, _, error = call("store", "import", file, "--signed-by", f"{key}2.pub", *there)
    assert status == 2
    assert "another key" in error
    assert not list((tmp_path / "b").iterdir())
    assert call("store", "import", f"{file}.unsigned", *there)[0] == 0
    assert call("store", "import", file, "--signed-by", f"{key}.pub", *there)[0] == 0
    assert call("store", "gc", *there)[0] == 0
    assert call("store", "verify", "--signed-by", f"{key}.pub", *there)[0] == 0
    (folder.path / "model.safetensors").write_bytes(b"")
    assert call("store", "sign", "--key", key, *root)[0] == 2
    assert call("store", "verify", "--recompute", "--signed-by", f"{key}.pub", *root)[0] == 0


@pytest.mark.parametrize("arguments", [("store", "verify"), ("store", "size"), ("store", "gc"), ("status",)])
def test_a_store_that_is_not_there_is_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    status, _, error = call(*arguments, "--root", str(tmp_path / "nowhere"))
    assert status == 2
    assert "is no store" in error


def test_a_run_that_diverged_is_shown_with_its_last_numbers(tmp_path: Path) -> None:
    root = ["--root", str(tmp_path)]
    status, _, error = call("train", *TINY, "train.learning_rate=1e30", "engine.log_every=1", *root)
    assert status == 2
    assert "finite" in error
    (row,) = json.loads(call("status", "--json", *root)[1])["stages"]
    assert row["state"] == "failed"
    assert "finite" in row["error"]
    assert "loss" in row
    status, out, _ = call("status", row["stage"], *root)
    assert status == 0
    assert "loss " in out
    assert call("status", "train/0123", *root)[0] == 2
