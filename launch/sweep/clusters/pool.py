"""Sweeps without a scheduler: a process in the background hands a submission's cells, parents first, to workers.

What local processes and MPI ranks have in common. The job's id says where the handing out goes on: "HOST:PID".
"""

from __future__ import annotations

import heapq
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import ClassVar

from launch.sweep.clusters.arrays import After, Array
from launch.sweep.clusters.base import Cluster
from launch.sweep.plan.plan import Plan
from launch.sweep.plan.resources import Shape
from launch.sweep.records import submissions
from launch.sweep.records.attempts import SILENT_SECONDS, latest_attempt, process_alive
from launch.sweep.records.submissions import LIVE, Submission
from launch.sweep.work.task import run_task
from rnet.errors import UserError
from rnet.parallel.launch import SINGLE
from rnet.storage.files import make_folder

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
LOOK_SECONDS = 2.0
"""How often one looks whether parents that another submission computes have ended."""
MOST_WORKERS = 10_000
_STARTED: dict[str, subprocess.Popen[bytes]] = {}
"""What this process has started, by submission."""


@dataclass(frozen=True, kw_only=True)
class Pool(Cluster):
    """Workers that a process of this machine feeds."""

    workers: int = 0
    """How many cells are computed at once; 0 for one per GPU, or per CPU core where there is no GPU."""

    queued: ClassVar[bool] = False
    hint_seconds: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= MOST_WORKERS:
            raise UserError(f"workers={self.workers} must be 0 or more, and at most {MOST_WORKERS}")

    @abstractmethod
    def command(self, root: Path, token: str, variables: Mapping[str, str]) -> list[str]:
        """What hands out a submission's cells and returns when none is left; it calls announce() first.

        variables: of the environment, which it is given; processes on other machines need them, too.
        """

    def arrays(self, plan: Plan, wanted: Collection[int], *, ask: bool = True) -> list[Array]:
        """All cells at once, each a task."""
        return [Array(stage="cells", shape=Shape(), tasks=[[index] for index in sorted(wanted)])]

    def start(self, root: Path, submission: Submission, array: Array, after: After) -> str:
        """Starts the pool in the background; raises UserError, with what it said, if it does not come up."""
        log = root / "jobs" / submission.token / "pool.log"
        make_folder(log.parent)
        code = submission.code(root)
        folders = [*([str(code)] if code else []), *(path for path in sys.path if path), os.getcwd()]
        # Without the last one, the current folder would come before the snapshot.
        variables = {"PYTHONPATH": os.pathsep.join(folders), "PYTHONSAFEPATH": "1"}
        command = self.command(root, submission.token, variables)
        try:
            with log.open("ab") as file:
                started = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                    env={**os.environ, **variables},
                )  # fmt: skip
        except OSError as error:
            raise UserError(f"cannot start {command[0]}: {error.strerror}; see the cluster's profile") from None
        _STARTED[submission.token] = started
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            record = submissions.read(root, submission.token)
            if record is not None and record.job is not None:
                return record.job
            if started.poll() is not None:
                break
            time.sleep(0.05)
        lines = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise UserError(f"the pool did not start: {' | '.join(lines) or 'it said nothing'} ({log})")

    def states(self, submissions: Sequence[Submission]) -> dict[str, str]:
        """pending while the process that hands cells out lives, or is of another machine; then lost."""
        return {
            task: "lost" if _process_here(submission.job) == 0 else "pending"
            for submission in submissions
            if submission.job
            for task in submission.task_ids
        }

    def cancel(self, ids: Sequence[str]) -> None:
        """Tells the handing out to end, if it is on this machine; the cells that run are saved."""
        for job in ids:
            if pid := _process_here(job):
                os.kill(pid, signal.SIGTERM)

    def log(self, root: Path, submission: Submission, number: int) -> Path | None:
        """A file for each task, beside that of the handing out."""
        return _log_of_task(root, submission.token, number)

    def wait(self, submissions: Sequence[Submission]) -> None:
        """Returns when the pools that this process started have ended."""
        for submission in submissions:
            _STARTED[submission.token].wait()


def _process_here(job: str) -> int | None:
    """The process of a job; 0 if it has ended, None if it is on another machine."""
    host, _, pid = job.rpartition(":")
    if host != platform.node():
        return None
    return int(pid) if process_alive(int(pid)) else 0


def announce(root: Path, token: str) -> Submission:
    """Records that this process hands out the submission's cells; ends it if the submission was given up meanwhile."""
    record = submissions.read(root, token)
    if record is None or record.state not in LIVE:
        raise SystemExit(f"submission {token} was {record.state if record else 'removed'}; nothing to do")
    record.job, record.state = f"{platform.node()}:{os.getpid()}", "submitted"
    submissions.save(root, record)
    return record


class Stop:
    """Inside, SIGTERM and SIGINT end the handing out; on_stop is called once."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self.asked = False
        self._on_stop = on_stop
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            self._on_stop()


def coming(root: Path, own: str, labels: Collection[str]) -> set[str]:
    """Those of the cells that another pool than the submission `own` will still finish, or fail to."""
    labels = {label for label in labels if not (root / label / "result.json").exists()}
    newest: dict[str, Submission] = {}
    for submission in submissions.read_all(root) if labels else []:
        if submission.state in LIVE and submission.token != own:
            newest |= dict.fromkeys(labels & submission.cells.keys(), submission)
    found = set()
    for label, submission in newest.items():
        if submission.job and _process_here(submission.job) != 0:
            status = latest_attempt(root, *label.split("/")) or {"attempt": 0}
            begun = status["attempt"] > submission.cells[label]["dead"]
            beats = begun and status["state"] == "running" and time.time() - status["updated"] < SILENT_SECONDS
            if beats or not begun:
                found.add(label)
    return found


def run_graph(
    record: Submission, workers: int, start: Callable[[int], Future[int]], stop: Stop,
    coming: Callable[[Collection[str]], set[str]] = lambda labels: set(),
) -> None:  # fmt: skip
    """Starts the record's tasks in their order, each after those with parents of its cells, at most `workers` at once.

    coming: which of the parents that are not the record's own will still end elsewhere; they are waited for. A task
    whose parent failed is started too: it records that it is blocked, and ends.
    """
    task_of = {label: number for number, labels in enumerate(record.tasks) for label in labels}
    waits = {
        number: {task_of[p] for label in labels for p in record.cells[label]["parents"] if p in task_of} - {number}
        for number, labels in enumerate(record.tasks)
    }
    outside = {
        number: {p for label in labels for p in record.cells[label]["parents"]} - task_of.keys()
        for number, labels in enumerate(record.tasks)
    }
    elsewhere, looked = coming(set().union(*outside.values())), time.monotonic()
    held: list[int] = []
    children: dict[int, list[int]] = {}
    for number, parents in waits.items():
        for parent in parents:
            children.setdefault(parent, []).append(number)
    ready = [number for number, parents in waits.items() if not parents]  # sorted, and so a heap
    running: dict[Future[int], int] = {}
    while ((ready or held) and not stop.asked) or running:
        if elsewhere and time.monotonic() - looked > LOOK_SECONDS:
            elsewhere, looked = coming(elsewhere), time.monotonic()
            ready, held = sorted([*ready, *held]), []
        while ready and len(running) < workers and not stop.asked:
            number = heapq.heappop(ready)
            if outside[number] & elsewhere:
                held.append(number)
            else:
                running[start(number)] = number
        if held and not running:
            time.sleep(LOOK_SECONDS / 4)
        for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
            number = running.pop(future)
            if future.exception() is not None:
                logger.error("task %d: %s", number, future.exception())
            for child in children.get(number, ()):
                waits[child].discard(number)
                if not waits[child]:
                    heapq.heappush(ready, child)


def task_exit_status(root: Path, token: str, number: int) -> int:
    """Runs a task in this process; 0, or what it would have exited with. What it prints is in a log of its own."""
    with _printing_to(_log_of_task(root, token, number)):
        try:
            run_task(root, token, number, launch=SINGLE)
        except SystemExit as error:
            return int(error.code or 0)
        return 0


def _log_of_task(root: Path, token: str, number: int) -> Path:
    return root / "jobs" / token / f"{number}.log"


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Inside, what this process and those it starts print is appended to a file."""
    before = [os.dup(number) for number in (1, 2)]
    with log.open("ab", buffering=0) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)
