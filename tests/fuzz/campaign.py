"""One target under many inputs, in a process of its own: what came of them, and what must not have."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import importlib
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rnet.errors import UserError
from tests.fuzz.mutate import changed
from tests.fuzz.target import Target

SECONDS = 5
"""Of computing, so that a busy machine makes no finding."""
WAITING = 120
"""Seconds in all."""
MEGABYTES = 1024
LONGEST_MESSAGE = 5000


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")
_REACHES_OUT = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.bind",
)


class Hang(BaseException):
    """It takes too long: no `except Exception` swallows it."""


class Outside(BaseException):
    """Something was opened for writing, removed, started or connected outside of the work folder."""


@dataclass
class Outcome:
    """What came of the inputs of a target. slowest: seconds; peak: MiB that the process grew by; findings: by kind."""

    target: str
    inputs: int = 0
    results: int = 0
    errors: int = 0
    slowest: float = 0.0
    peak: float = 0.0
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)


class Trial:
    """Runs single inputs of a target in this process."""

    def __init__(self, target: Target, folder: Path, keep: Path) -> None:
        self.target, self.folder, self.keep = target, folder, keep
        self.outcome = Outcome(target.name)
        self.work = folder / "work"
        self._before = _resident()
        _hook()
        signal.signal(signal.SIGALRM, _too_long)
        signal.signal(signal.SIGPROF, _too_long)

    def one(self, data: bytes) -> None:
        """One input. Counts what comes of it."""
        self._clean()
        self.outcome.inputs += 1
        started = time.process_time()
        if self.outcome.inputs % 64 == 1:  # for what holds the interpreter; it makes a thread
            faulthandler.dump_traceback_later(4 * WAITING, exit=True)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        _WATCHING.append(self)
        problem: BaseException | str | None = None
        try:
            self.target.run(data, self.work)
            self.outcome.results += 1
        except UserError as error:
            self.outcome.errors += 1
            text = str(error)
            if not text or (not text.isprintable() and re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text)):
                problem = f"a message of more than one line: {text[:200]!r}"
            elif len(text) > LONGEST_MESSAGE:
                problem = f"a message of {len(text)} characters: {text[:200]!r}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever it is, it is what must not happen
            problem = error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _WATCHING.clear()
        self.outcome.slowest = max(self.outcome.slowest, time.process_time() - started)
        grown = (_resident() - self._before) / 1024
        if grown > MEGABYTES and self.outcome.peak <= MEGABYTES:
            problem = problem or f"{grown:.0f} MiB of memory"
        self.outcome.peak = max(self.outcome.peak, grown)
        if problem is not None:
            self._found(problem, data)

    def _clean(self) -> None:
        """Empties the work folder."""
        self.work.mkdir(exist_ok=True)
        for entry in os.scandir(self.work):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def _found(self, problem: BaseException | str, data: bytes) -> None:
        if isinstance(problem, BaseException):
            frames = traceback.extract_tb(problem.__traceback__)
            own = [frame for frame in frames if "/rnet/" in frame.filename or "/launch/" in frame.filename]
            ours = (own or frames)[-1]
            kind = f"{type(problem).__name__} at {Path(ours.filename).name}:{ours.lineno}"
            text = "".join(traceback.format_exception(problem))[-3000:]
        else:
            kind, text = re.sub(r"\d+|'.*", "#", problem), problem
        known = self.outcome.findings.setdefault(kind, {"count": 0, "text": text})
        known["count"] += 1
        if known["count"] == 1:
            name = re.sub(r"\W+", "-", f"{self.target.name} {kind}")[:100]
            (self.keep / name).write_bytes(data)
            (self.keep / f"{name}.txt").write_text(text, errors="backslashreplace")
            known["file"] = str(self.keep / name)

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raises Outside for what Python does outside of the folder, or elsewhere than in files."""
        if event == "open":
            path, _, flags = arguments
            if (flags or 0) & _WRITES and isinstance(path, str | bytes | os.PathLike):
                self._require_inside(event, path)
        elif event in _CHANGES:
            self._require_inside(event, arguments[event in ("os.symlink", "os.link")])
        elif event in _REACHES_OUT:
            raise Outside(f"{event} {arguments!r:.200}")

    def _require_inside(self, event: str, path: Any) -> None:
        place = os.path.abspath(os.fsdecode(path))
        if not place.startswith((str(self.folder), "/dev/null", "/proc/self/")):
            raise Outside(f"{event} {place}")


_WATCHING: list[Trial] = []


@functools.cache
def _hook() -> None:
    """Once in a process: such a hook stays for good."""
    sys.addaudithook(lambda event, arguments: _WATCHING[0].watch(event, arguments) if _WATCHING else None)


def _too_long(*_: object) -> None:
    raise Hang(f"more than {SECONDS} s of computing, or {WAITING} s in all")


def _resident() -> int:
    """The most memory that this process ever had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def inputs(target: Target, count: int, seed: int, corpus: Iterable[bytes]) -> Iterator[bytes]:
    """The seeds themselves, then changes of them."""
    draw = random.Random(f"{target.name} {seed}")
    seeds = [*target.seeds(), *corpus]
    yield from seeds[:count]
    for _ in range(count - len(seeds)):
        start = draw.choice(seeds) if draw.random() < 0.98 else draw.randbytes(draw.randrange(200))
        yield changed(draw, start, seeds, target.tokens)


@contextlib.contextmanager
def quietly() -> Iterator[Path]:
    """A folder to work in, where this process is; nothing is logged or warned of."""
    before, place = Path.cwd(), Path(tempfile.mkdtemp(prefix="rnet-fuzz-"))
    logging.disable(logging.CRITICAL)
    os.chdir(place)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield place
    finally:
        os.chdir(before)
        logging.disable(logging.NOTSET)
        shutil.rmtree(place, ignore_errors=True)


def warm_up(target: Target) -> None:
    """Imports what the target needs, once, before processes are forked and times are taken."""
    importlib.import_module("torch._dynamo")  # a build of a model imports it; it cannot be imported twice
    with quietly() as place:
        for data in target.seeds():
            with contextlib.suppress(Exception):
                target.run(data, place)


def run_target(target: Target, count: int, seed: int, corpus: Iterable[bytes], keep: Path) -> Outcome:
    """All inputs of a target, in a process of its own. One that ends it is a finding; the rest follow."""
    done, total = 0, Outcome(target.name)
    warm_up(target)
    while done < count:
        with tempfile.TemporaryDirectory(prefix="rnet-fuzz-report-") as name:
            report = Path(name) / "report"
            child = multiprocessing.get_context("fork").Process(
                target=_child, args=(target, count, seed, [*corpus], keep, report, done)
            )
            child.start()
            child.join()
            part = Outcome(**json.loads(report.read_text())) if report.exists() else Outcome(target.name)
            _add(total, part)
            done += part.inputs
            if child.exitcode != 0:
                kind = f"the process ended with {child.exitcode}"
                kept = keep / f"{re.sub('[^A-Za-z]+', '-', target.name)}-ended"
                number, _, data = (Path(name) / "input").read_bytes().partition(b"\n")
                kept.write_bytes(data)
                _add(total, Outcome(target.name, findings={kind: {"count": 1, "text": kind, "file": str(kept)}}))
                done = int(number) + 1
    return total


def _child(target: Target, count: int, seed: int, corpus: list[bytes], keep: Path, report: Path, skip: int) -> None:
    with quietly() as place:
        trial = Trial(target, place, keep)
        for number, data in enumerate(inputs(target, count, seed, corpus)):
            if number < skip:
                continue
            (report.parent / "input").write_bytes(b"%d\n" % number + data)
            trial.one(data)
            if number % 50 == 0 or trial.outcome.inputs == count - skip:
                report.write_text(json.dumps(asdict(trial.outcome)))
        report.write_text(json.dumps(asdict(trial.outcome)))
        faulthandler.cancel_dump_traceback_later()


def _add(total: Outcome, part: Outcome) -> None:
    for name in ("inputs", "results", "errors"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    total.slowest, total.peak = max(total.slowest, part.slowest), max(total.peak, part.peak)
    for kind, found in part.findings.items():
        known = total.findings.setdefault(kind, {**found, "count": 0})
        known["count"] += found["count"]
