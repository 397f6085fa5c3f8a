"""Nothing but the lines that rnet means reaches a job script, whatever stands in a profile."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launch.sweep.clusters.arrays import Array
from launch.sweep.clusters.base import make_cluster
from launch.sweep.plan.resources import Shape
from rnet.errors import UserError

ARRAY = Array(stage="train", shape=Shape(), tasks=[[0]])
BREAKS = ["\n", "\r", "\x0b", "\x0c", "\x1b", "\x85", "\u2028", "\u2029", "\x07", "\u202e"]
FIELDS: dict[str, Any] = {
    "partition": str, "account": str, "qos": str, "constraint": str, "python": str,
    "sbatch": lambda text: {"comment": text}, "sbatch.key": lambda text: {text: "x"},
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("character", BREAKS, ids=ascii)
def test_a_control_character_is_refused_with_its_key(field: str, character: str) -> None:
    profile = {"kind": "slurm", field.partition(".")[0]: FIELDS[field](f"p{character}touch marker #")}
    with pytest.raises(UserError, match=field.partition(".")[0]) as caught:
        make_cluster(profile, "mine")
    assert str(caught.value).isprintable()
    assert f"U+{ord(character):04X}" in str(caught.value)


@pytest.mark.parametrize("kind", ["local", "mpi"])
def test_no_kind_of_cluster_takes_a_line_break(kind: str) -> None:
    with pytest.raises(UserError):
        make_cluster({"kind": kind, "mpiexec": ["a\nb"], "crash_requeues": "1\n"})


@pytest.mark.parametrize("key", ["a b", "x\n", "-x", "a=b", "a;b", ""])
def test_an_option_of_sbatch_is_one_word(key: str) -> None:
    with pytest.raises(UserError, match="sbatch"):
        make_cluster({"kind": "slurm", "sbatch": {key: "1"}})


def test_the_stores_path_may_hold_no_control_characters(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="control characters"):
        make_cluster({"kind": "slurm"}).script(tmp_path / "a\ntouch marker", ARRAY)


WORDS = [
    "$(touch marker)",
    "`touch marker`",
    "; touch marker",
    "'; touch marker; '",
    '"; touch marker; "',
    "& touch marker",
]


@pytest.mark.parametrize("word", WORDS)
def test_the_script_runs_its_setup_lines_and_nothing_else(word: str, tmp_path: Path) -> None:
    profile = {
        "kind": "slurm", "partition": word, "account": word, "qos": word, "constraint": word, "python": "true",
        "sbatch": {"comment": word, "mail-user": word},
        "setup": ["touch meant", "for i in 1 2; do\n\ttouch meant-$i\ndone"],
    }  # fmt: skip
    root = tmp_path / f"store {word.replace('/', '')}"
    script = make_cluster(profile, "mine").script(root, ARRAY)
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "srun").chmod(0o700)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash"], input=script, text=True, cwd=tmp_path, env=environment, capture_output=True, check=False)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"meant", "meant-1", "meant-2"} <= made
    assert "marker" not in made
    options = script.partition("# setup")[0].splitlines()
    assert all(line.startswith("#") or not line for line in options)
