"""rnet's commands in processes forked from this one, which has loaded torch and rnet: a start costs no seconds.

A forked process does what `rnet ARGUMENTS` does. Nothing has run here before it, so that nothing is known to it.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PRELOADED = (
    "launch.cli", "launch.sweep.submit", "rnet.stages.stages", "rnet.stages.keeping", "rnet.command.verdicts",
    "rnet.verdicts.examine", "sklearn.datasets", "skimage.segmentation", "torch.utils.tensorboard", "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
)  # fmt: skip
DEEPSPEED = ("rnet.engines.deepspeed", "deepspeed")
COMPILED = Path("~/.cache/rnet/faults-compiled").expanduser()
"""What DeepSpeed compiles, once for all of these processes, each of which has a home of its own."""
UNFORESEEN = 99
"""The status of a process in which the command itself raised an error."""


def load(*more: str) -> None:
    """Imports what the commands need, before anything is forked."""
    for name in (*PRELOADED, *more):
        importlib.import_module(name)
    gc.freeze()  # what was imported is nobody's garbage, and need not be copied for each process to look through it


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended. status: what it exited with, or minus the signal that killed it; None if it had to be."""

    status: int | None
    shown: str
    said: str

    @property
    def message(self) -> str | None:
        """Its one clear message: exit status 2, and a single line of rnet's on standard error; None if it is not so."""
        lines = [line for line in self.said.splitlines() if line.startswith("rnet: ")]
        foreseen = self.status == 2 and len(lines) == 1 and "(details in " not in lines[0]
        return lines[0] if foreseen and "Traceback" not in self.said else None

    def describe(self) -> str:
        """What happened, for people."""
        what = "it hung" if self.status is None else f"it ended with {self.status}"
        return f"{what}: {self.said[-1500:].strip()}"


class Process:
    """One command in a forked process. desk: a folder for what it writes beside the store.

    prepare: called in the process before the command. environment: variables that it has beside those of this one.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        desk: Path,
        *,
        prepare: Callable[[], object] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if not desk.exists():
            (desk / ".cache").mkdir(parents=True)
            COMPILED.mkdir(parents=True, exist_ok=True)
            (desk / ".cache" / "torch_extensions").symlink_to(COMPILED)
        self._shown, self._said = _Pipe(), _Pipe()  # files might be what the process cannot write
        self._started = time.monotonic()
        self.seconds: float | None = None
        """How long it took, once it is known how it ended."""
        self.pid = os.fork()
        if self.pid == 0:
            status = UNFORESEEN
            try:
                os.setsid()
                os.environ.update({"HOME": str(desk), "COLUMNS": "200", **(environment or {})})
                os.chdir(desk)
                for number, end in ((0, os.open(os.devnull, os.O_RDONLY)), (1, self._shown.end), (2, self._said.end)):
                    os.dup2(end, number)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                if prepare is not None:
                    prepare()
                status = _command(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        for pipe in (self._shown, self._said):
            os.close(pipe.end)

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kills it and what it started."""
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.seconds = time.monotonic() - self._started

    def ended(self) -> bool:
        """Whether it has ended; it stays a zombie until wait()."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, seconds: float = 120.0) -> Ended:
        """Its end; it is killed if it takes longer than that."""
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                self.end()
                return Ended(status=None, shown=self._shown.text(), said=self._said.text())
            time.sleep(0.005)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.seconds = time.monotonic() - self._started
        return Ended(status=status, shown=self._shown.text(), said=self._said.text())


class _Pipe:
    """Room for a megabyte that is read when the process has ended, whoever still holds the other end."""

    def __init__(self) -> None:
        self._read, self.end = os.pipe()
        fcntl.fcntl(self._read, fcntl.F_SETPIPE_SZ, 2**20)
        os.set_blocking(self._read, False)

    def text(self) -> str:
        """All that was written; the pipe is closed."""
        found = b""
        with suppress(BlockingIOError):
            while part := os.read(self._read, 2**20):
                found += part
        os.close(self._read)
        return found.decode(errors="replace")


def _command(arguments: Sequence[str]) -> int:
    from launch.cli import app

    sys.argv = ["rnet", *arguments]
    try:
        app(list(arguments), prog_name="rnet")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0
