"""How commands end: one line, an exit status, and a log for what nobody foresaw."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rnet.command.guarded import guarded, leave_at_once
from rnet.errors import UserError
from rnet.parallel import processes
from rnet.training.signals import Preempted


def _raises(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("lower x"), 2, "rnet: lower x\n"),
        (UserError("a\nb\r\n c"), 2, "rnet: a b c\n"),
        (UserError("the file a\x1b[31mb\x07"), 2, "rnet: the file a\\x1b[31mb\\x07\n"),
        (UserError("caf\u00e9 \u9ce5"), 2, "rnet: caf\u00e9 \u9ce5\n"),
        (Preempted("SIGTERM", 3, 9), 143, ""),
        (KeyboardInterrupt(), 130, "rnet: interrupted; the same command goes on from the last checkpoint\n"),
    ],
)
def test_what_was_foreseen_is_one_line(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert guarded(_raises(error)) == status
    found = capsys.readouterr().err
    assert found.count("\n") == 1
    assert said in found
    assert not (home / ".cache").exists()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a\nb"), RuntimeError(""), RecursionError("deep"), ValueError("x")]
)
def test_a_fault_is_one_line_that_names_a_log_with_the_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert guarded(_raises(error)) == 1
    found = capsys.readouterr().err
    assert found.count("\n") == 1
    assert type(error).__name__ in found
    assert "report it" in found
    (log,) = (home / ".cache" / "rnet" / "faults").iterdir()
    assert str(log) in found
    assert "Traceback" in log.read_text()
    assert "in action" in log.read_text()


def test_a_fault_whose_log_cannot_be_written_is_shown_instead(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert guarded(_raises(ZeroDivisionError("a"))) == 1
    found = capsys.readouterr().err
    assert "in action" in found
    assert found.splitlines()[-1].startswith("rnet: unexpected ZeroDivisionError")


def test_what_the_system_says_of_a_file_is_the_users_to_put_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: Path("/nowhere/at/all").touch()) == 2
    assert "rnet: /nowhere/at/all: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 4 TB")]
)
def test_too_little_memory_is_the_users_to_put_right(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(_raises(error)) == 2
    assert "out of memory; lower batch sizes" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_does_not_hide_the_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert guarded(_raises(ZeroDivisionError("x"))) == 1
    assert "ZeroDivisionError: x" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    command = f"{sys.executable} -m rnet explain --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout in ("{141\n", "{0\n")  # it may have been quicker than its reader
    assert done.stderr == ""


def test_a_warning_says_that_it_is_one(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import logging, warnings; from rnet.command.guarded import guarded\n"
        "def action():\n"
        "    logging.getLogger('x').info('step 1'); logging.getLogger('x').warning('odd'); warnings.warn('no effect')\n"
        "raise SystemExit(guarded(action))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines() == ["step 1", "warning: odd", "warning: no effect"]


@pytest.mark.parametrize(("met", "ends"), [([2], True), ([], False)])
def test_only_one_of_several_processes_ends_without_the_teardown(
    met: list[int], ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    monkeypatch.setattr(processes, "_met", met)
    leave_at_once(2)
    assert ended == ([2] if ends else [])
