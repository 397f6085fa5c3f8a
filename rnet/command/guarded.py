"""Every command's end: the exit status, one line for what the user can put right, a log for what is a fault of ours."""

from __future__ import annotations

import atexit
import logging
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rnet import __version__
from rnet.errors import UserError, first_line, one_line
from rnet.training.signals import Preempted

EXIT_FAULT = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
EXIT_PREEMPTED = 143


def guarded(action: Callable[[], None]) -> int:
    """Runs a command and returns the exit status; a user's mistake becomes one clear message without a traceback."""
    handler = _Stderr()
    handler.setFormatter(_Plain())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files that are no UTF-8
    try:
        action()
        sys.stdout.flush()
    except UserError as error:
        return _say(str(error), EXIT_USER_ERROR)
    except Preempted as error:
        return _say(str(error), EXIT_PREEMPTED)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from the last checkpoint", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who read our output has gone
        return EXIT_PIPE_CLOSED
    except Exception as error:
        return _say(said, EXIT_USER_ERROR) if (said := _worker_died(error)) else _fault(error)
    return 0


class _Stderr(logging.StreamHandler[TextIO]):
    """Whatever sys.stderr is at the time: a progress bar takes its place, so that lines stand above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Plain(logging.Formatter):
    """The message alone, with a word before it where it is more than information."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.name == "py.warnings":  # "file:line: Kind: words", and the line of code
            text = re.sub(r"^.*?:\d+: (\w+): ", "", text.split("\n  ")[0].strip())
        return f"{record.levelname.lower()}: {text}" if record.levelno > logging.INFO else text


def leave_at_once(status: int) -> None:
    """Ends a process that was one of several, without the interpreter's teardown; does nothing in others.

    Threads that torch leaves behind abort there now and then ("terminate called without an active exception"), and the
    launcher takes a run that has succeeded for a failed one. MPI has ended long before, in rendezvous.
    """
    processes = sys.modules.get("rnet.parallel.processes")
    if processes is None or not processes.has_met():
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _say(message: str, status: int) -> int:
    print(f"rnet: {one_line(message)}", file=sys.stderr)  # noqa: T201
    return status


def _fault(error: Exception) -> int:
    """An error that nobody foresaw: what the system says of a file in one line, else where the traceback is."""
    log = _logged(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return _say(f"{os.fsdecode(error.filename)}: {error.strerror} (details in {log})", EXIT_USER_ERROR)
    what = f"{type(error).__name__}: {first_line(error)}"
    if _no_memory(error):
        return _say(f"out of memory; lower batch sizes, image_size or the model's width ({what})", EXIT_USER_ERROR)
    return _say(
        f"unexpected {what}. This is a fault of rnet; please report it (CONTRIBUTING.md) with {log}", EXIT_FAULT
    )


def _logged(error: Exception) -> str:
    """Where the traceback is: in a file, or where none can be written, on standard error."""
    lines = [
        f"rnet {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}: {' '.join(sys.argv)}\n\n",
        *traceback.format_exception(error),
    ]
    try:
        log = _log_file()
        log.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    except OSError:
        sys.stderr.writelines(lines)
        return "what is above"
    return str(log)


def _worker_died(error: Exception) -> str:
    """What to say where torch found, at whatever place, that a process that reads images has died."""
    workers = sys.modules.get("rnet.data.workers")  # imported only where images are read
    return workers.worker_died(error) if workers else ""


def _no_memory(error: Exception) -> bool:
    """Whether the machine or its card has too little memory; torch is not imported to know its own error."""
    return isinstance(error, MemoryError) or any(
        words in f"{type(error).__name__} {error}" for words in ("OutOfMemoryError", "can't allocate memory")
    )


def _log_file() -> Path:
    """A new file in the user's cache, or where nothing can be written there, with the temporary files."""
    name = f"fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        folder = Path("~/.cache/rnet/faults").expanduser()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / name).touch(mode=0o600)
        return folder / name
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="rnet-")) / name
