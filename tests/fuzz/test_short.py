"""A short run of every target: the seeds of each, changes of them, and inputs that hypothesis makes."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnet.errors import UserError
from tests.fuzz.__main__ import TARGETS
from tests.fuzz.campaign import Outcome, Trial, inputs, quietly, run_target, warm_up
from tests.fuzz.target import Target

SHORT = 25
"""Changed inputs of each target."""
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["files", "folder", "sha256", "size", "step", "cells", "scores"]), inner)
    ),
    max_leaves=12,
)
OF_JSON = [target for target in TARGETS if target.seeds()[0][:1] == b"{" and b"\n" not in target.seeds()[0][:-1]]


def tried(target: Target, data: list[bytes], keep: Path) -> Outcome:
    """What came of the inputs, in this process."""
    with quietly() as place:
        trial = Trial(target, place, keep)
        for one in data:
            trial.one(one)
    faulthandler.cancel_dump_traceback_later()
    return trial.outcome


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_read_ends_in_a_result_or_in_one_line(target: Target, tmp_path: Path) -> None:
    warm_up(target)
    outcome = tried(target, [*inputs(target, len(target.seeds()) + SHORT, 1, [])], tmp_path)
    assert not outcome.findings, "\n".join(found["text"] for found in outcome.findings.values())
    assert outcome.results > 0, "not even a seed is read"


@pytest.mark.parametrize("target", OF_JSON, ids=lambda target: target.name)
def test_any_json_ends_in_a_result_or_in_one_line(target: Target, tmp_path: Path) -> None:
    warm_up(target)

    @settings(max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(JSON)
    def try_it(document: Any) -> None:
        outcome = tried(target, [json.dumps(document).encode()], tmp_path)
        assert not outcome.findings, "\n".join(found["text"] for found in outcome.findings.values())

    try_it()


def _swallowing(data: bytes, folder: Path) -> None:
    while True:
        try:
            while True:
                pass
        except Exception:  # as readers of arbitrary bytes have it
            continue


def _outside(data: bytes, folder: Path) -> None:
    (folder.parent.parent / "elsewhere").write_text("x")


def _two_lines(data: bytes, folder: Path) -> None:
    error = UserError("x")
    error.args = ("a\nb",)
    raise error


FAULTS = {
    "ValueError": lambda data, folder: int("x"),
    "SystemExit": lambda data, folder: sys.exit(0),
    "Hang": _swallowing,
    "Outside": _outside,
    "a message of more than one line": _two_lines,
    "MiB of memory": lambda data, folder: len(b"x" * (1100 * 2**20)),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "Hang":
        monkeypatch.setattr("tests.fuzz.campaign.SECONDS", 1)
    target = Target(name="x", run=FAULTS[kind], seeds=lambda: [b"input"])
    outcome = tried(target, [b"input"], tmp_path)
    assert [kind in found for found in outcome.findings] == [True]
    assert any(path.read_bytes() == b"input" for path in tmp_path.iterdir())


def test_an_input_that_ends_the_process_is_found_and_the_others_follow(tmp_path: Path) -> None:
    parent = os.getpid()

    def run(data: bytes, folder: Path) -> None:
        if data == b"end" and os.getpid() != parent:
            os._exit(3)

    outcome = run_target(Target(name="x", run=run, seeds=lambda: [b"a", b"end", b"b"]), 3, 0, [], tmp_path)
    assert outcome.findings["the process ended with 3"]["count"] == 1
    assert Path(outcome.findings["the process ended with 3"]["file"]).read_bytes() == b"end"
    assert outcome.results == 2
