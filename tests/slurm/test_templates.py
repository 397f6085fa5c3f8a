"""The files of slurm/templates: a node's copy of shards is whole, made once, and checked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).resolve().parents[2] / "slurm" / "templates"


def copy(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TEMPLATES / "local-shards", source, target], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards, one of them in a folder, with their digests."""
    folder = tmp_path / "shared"
    (folder / "val").mkdir(parents=True)
    for number, name in enumerate(("train 0.tar", "val/0.tar")):
        (folder / name).write_bytes(bytes([number]) * 5000)
        os.utime(folder / name, (1_000_000, 1_000_000 + number))
    line = next(line for line in (TEMPLATES / "local-shards").read_text().splitlines() if "SHA256SUMS" in line)
    subprocess.run(line.partition("cd FROM && ")[2], shell=True, cwd=folder, check=True)
    return folder


def test_a_copy_is_made_once_with_the_times_of_the_source(shards: Path, tmp_path: Path) -> None:
    assert "2 files copied, 0 kept" in copy(shards, tmp_path / "local").stdout
    for name in ("train 0.tar", "val/0.tar"):
        made, given = tmp_path / "local" / name, shards / name
        assert made.read_bytes() == given.read_bytes()
        assert made.stat().st_mtime == given.stat().st_mtime
    assert "0 files copied, 2 kept" in copy(shards, tmp_path / "local").stdout


def test_what_a_killed_copy_left_is_copied_again(shards: Path, tmp_path: Path) -> None:
    copy(shards, tmp_path / "local")
    (tmp_path / "local" / "train 0.tar").write_bytes(b"half")
    (tmp_path / "local" / "val" / "0.tar.part").write_bytes(b"half")
    assert "1 files copied, 1 kept" in copy(shards, tmp_path / "local").stdout
    assert (tmp_path / "local" / "train 0.tar").read_bytes() == bytes([0]) * 5000


def test_a_shard_that_is_not_what_it_was_is_named_and_not_kept(shards: Path, tmp_path: Path) -> None:
    (shards / "val" / "0.tar").write_bytes(b"\x02" * 5000)
    end = copy(shards, tmp_path / "local")
    assert end.returncode == 1
    assert "val/0.tar is damaged" in end.stderr
    assert sorted(p.name for p in (tmp_path / "local").rglob("*.tar*")) == ["train 0.tar"]


def test_shards_without_digests_are_refused_with_the_remedy(tmp_path: Path) -> None:
    end = copy(tmp_path, tmp_path / "local")
    assert end.returncode == 2
    assert "SHA256SUMS; make it with" in end.stderr


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.iterdir()))
def test_a_template_is_a_valid_shell_script(name: str) -> None:
    subprocess.run(["bash", "-n", TEMPLATES / name], check=True)
