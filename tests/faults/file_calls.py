"""A layer under Python's file calls: it counts those that change a store, and lets one of them fail, or kills there.

It lies over `open` and over the functions of `os` of the process in which it is installed, for good. Errors are raised
as the system raises them: those of a write do not name the file.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

NAMED = ("mkdir", "replace", "rename", "link", "unlink", "remove", "rmdir")
FREEING = ("unlink", "remove", "rmdir", "replace", "rename")
"""What still works on a full disk."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens at a call. at: its number, from 1. lasting: and to all later ones that need room."""

    at: int
    kill: Literal["before", "within", "after"] | None = None
    errno: int = 0
    lasting: bool = False
    only: str | None = None
    """Count the calls of this name only."""


class FileCalls:
    """The calls of the process that installs it, below a folder, and what happens at one of them.

    log: if given, the names of the calls are appended to that file. fired: a file that is there after the fault.
    """

    def __init__(
        self, root: Path, fault: Fault | None = None, *, log: Path | None = None, fired: Path | None = None
    ) -> None:
        self._root = os.path.realpath(root)
        self._fault, self._count = fault, 0
        self._open = builtins.open
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fired, self._pid = fired, 0

    def install(self) -> None:
        """From now on, and not in processes that this one forks."""
        self._pid = os.getpid()
        builtins.open = io.open = self._opened  # type: ignore[assignment]
        for name in NAMED:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        fsync = os.fsync

        def synced(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            if self._below(os.readlink(f"/proc/self/fd/{number}")):
                self.call("fsync", lambda: fsync(number))
            else:
                fsync(number)

        os.fsync = synced

    def call(
        self, name: str, act: Callable[[], Any], *, path: Any = None, half: Callable[[], Any] | None = None
    ) -> Any:
        """Does it, unless the fault wants otherwise."""
        fault = self._fault
        if self._log is not None:
            os.write(self._log, f"{name}\n".encode())
        if fault is None or os.getpid() != self._pid or fault.only not in (None, name):
            return act()
        self._count += 1
        due = self._count == fault.at
        if due and self._fired is not None:
            os.close(os.open(self._fired, os.O_WRONLY | os.O_CREAT))
        if fault.errno and (due or (fault.lasting and self._count > fault.at and name not in FREEING)):
            if half is not None and due:
                half()
            raise OSError(fault.errno, os.strerror(fault.errno), *(() if path is None else (os.fspath(path),)))
        if fault.kill is None or not due:
            return act()
        if fault.kill == "within" and half is not None:
            half()
        elif fault.kill == "after":
            act()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def _below(self, path: Any) -> bool:
        try:
            return os.path.realpath(os.fspath(path)).startswith(f"{self._root}{os.sep}")
        except TypeError:  # a file descriptor
            return False

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *more: Any, **named: Any) -> Any:
            folder = named.get("dir_fd")  # as shutil.rmtree gives it
            base = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
            if not self._below(os.path.join(base, os.fspath(path))):
                return real(path, *more, **named)
            return self.call(name, lambda: real(path, *more, **named), path=path)

        return wrapped

    def _opened(
        self, file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        if isinstance(file, int) or not set(mode) & set("wax+") or not self._below(file):
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = self.call("open", lambda: _Raw(self, file, mode.replace("t", ""), opener=opener), path=file)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class _Raw(io.FileIO):
    """A file whose writes are calls."""

    def __init__(self, calls: FileCalls, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._calls = calls

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        write = super().write
        written: int = self._calls.call("write", lambda: write(view), half=lambda: write(view[: len(view) // 2]))
        return written
