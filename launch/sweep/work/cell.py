"""What a worker does with a cell: waits for nobody, repeats nothing, and leaves a status whatever happens to it.

The states in which a cell is left: done, failed (with its error), blocked (a parent has no result), preempted (asked to
stop; saved, goes on in the next incarnation).
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from launch.sweep.records.attempts import Attempt, Superseded, Worker, claim, latest_attempt
from rnet.config.documents import content_id, run_from_dict
from rnet.config.run import RunConfig
from rnet.data.files.digest import look_at, looked_at_once
from rnet.errors import UserError
from rnet.parallel.collectives import rank, same_on_all, world_size
from rnet.parallel.launch import SINGLE, Launch
from rnet.parallel.processes import process_group
from rnet.stages import stages
from rnet.stages.graph import Document, document
from rnet.stages.store import StageFolder, Store
from rnet.training.loop import resolve_device
from rnet.training.signals import SIGNALS, Preempted

logger = logging.getLogger(__name__)

VISIBLE_SECONDS = 60.0
"""How long network file systems may hide a new file (the attribute cache of NFS)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One cell as a submission describes it, with its resolved configuration.

    dead: the number of its newest attempt that is known to have ended.
    """

    stage: str
    id: str
    configuration: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    dead: int = 0

    @property
    def label(self) -> str:
        """Stage and id: train/0123456789abcdef."""
        return f"{self.stage}/{self.id}"

    def config(self) -> RunConfig:
        """The cell's configuration. Raises UserError if this code makes another id of it."""
        config = run_from_dict(self.configuration)
        found = content_id(document(self.stage, config))
        if found != self.id:
            look = look_at(config.dataset)
            if look is not None and look.changed:
                raise UserError(
                    f"{self.label}: the images of dataset={config.dataset.name} in {look.folder} have changed since "
                    f"the sweep was submitted: {look.changed}; restore them, or run rnet sweep submit again"
                )
            raise UserError(
                f"{self.label} is {found} to this code, which has changed since the sweep was submitted; "
                "run rnet sweep submit again"
            )
        return config


def run_cell(root: Path, job: Job, worker: Worker, launch: Launch = SINGLE) -> str:
    """Computes the cell unless it is done, and returns the state it is left in. Called by every rank of a task.

    launch: who this process is among them.

    Raises Preempted, after the state has been recorded, when the worker was asked to stop.
    """
    if launch.world_size == 1:
        return _attempt(root, job, worker)
    engine = run_from_dict(job.configuration).engine
    device = resolve_device(engine.device)
    with process_group(launch, device.type, backend=engine.backend, agreed=(Preempted,)):
        return _attempt(root, job, worker)


def _attempt(root: Path, job: Job, worker: Worker) -> str:
    attempt: Attempt | None = None
    state = "running"
    if rank() == 0:
        attempt = claim(root, job.stage, job.id, worker, dead=job.dead)
        state = _opening(root, job, attempt)
    if same_on_all(state) != "running":
        return same_on_all(state)
    try:
        with stopping_at_once(world_size() == 1):
            with looked_at_once(root, keep=False):  # the store still knows the files that the sweep was planned with
                config = job.config()
            stages.STAGES[job.stage](config, FencedStore(root, job, attempt))
    except Preempted as error:
        _finish(attempt, "preempted", error=str(error))
        raise
    except Superseded as error:
        logger.warning("%s", error)
        if attempt is not None:
            attempt.abandon()
        return "superseded"
    except UserError as error:
        return _finish(attempt, "failed", error=str(error))
    except Exception as error:
        traceback.print_exc()
        return _finish(attempt, "failed", error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
    return _finish(attempt, "done")


def _opening(root: Path, job: Job, attempt: Attempt | None) -> str:
    """running if the attempt may start; done or blocked if there is nothing to start."""
    if attempt is None:
        return "done"
    for parent in job.parents:
        state = _wait_for_result(root, parent)
        if state != "done":
            return _finish(attempt, "blocked", error=f"its parent {parent} has no result ({state})")
    attempt.beat()
    return "running"


def _wait_for_result(root: Path, label: str) -> str:
    """done, or the state that a parent without a result is in.

    A parent that says it is done is waited for: on a shared file system its result may be seen some seconds later.
    """
    stage, _, cell_id = label.partition("/")
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not (root / label / "result.json").exists():
        state = (latest_attempt(root, stage, cell_id) or {}).get("state", "not started")
        if state != "done" or time.monotonic() > deadline:
            return state if state != "done" else "its result has gone"
        time.sleep(1.0)
    return "done"


def _finish(attempt: Attempt | None, state: str, **extra: Any) -> str:
    if attempt is not None:
        attempt.finish(state, **extra)
    if state in ("failed", "blocked"):
        logger.error("%s: %s", state, extra["error"])
    return state


@contextmanager
def stopping_at_once(raising: bool) -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR2 raise Preempted where no training loop has taken them over to save first.

    Without raising they are passed over: several processes cannot leave each from where it happens to be.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if raising:
            raise Preempted(signal.Signals(number).name, 0, 0)
        logger.warning("%s is passed over: no training loop to save", signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Mapping[signal.Signals, Any] = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class FencedStore(Store):
    """The store as one attempt sees it: it may write to its own cell while it is the current attempt, and read others.

    attempt: None on ranks other than 0, which write nothing.
    """

    def __init__(self, root: Path, job: Job, attempt: Attempt | None) -> None:
        super().__init__(root)
        self._own, self._attempt = job.label, attempt

    def folder(self, document: Document) -> StageFolder:
        """The folder of the stage that a document describes."""
        folder = super().folder(document)
        if folder.label == self._own:
            return FencedFolder(folder.path, document, self._attempt)
        return ParentFolder(folder.path, document)


class FencedFolder(StageFolder):
    """The cell's own folder: every checkpoint and the commit ask first whether this is still the current attempt."""

    def __init__(self, path: Path, document: Document, fence: Attempt | None) -> None:
        super().__init__(path, document)
        self._fence = fence

    def commit(self, result: dict[str, Any]) -> dict[str, Any]:
        """Declares the stage complete. Raises Superseded if another attempt has replaced this one."""
        if self._fence is not None:
            self._fence.check()
        return super().commit(result)

    def write_status(self, state: str, **extra: Any) -> None:
        """Records the state. Raises Superseded for a running attempt that was replaced; one that ends is silent."""
        if self._fence is not None:
            try:
                self._fence.check()
            except Superseded:
                if state == "running":
                    raise
                return
        super().write_status(state, **extra)


class ParentFolder(StageFolder):
    """Another cell's folder: to be read only."""

    @contextmanager
    def building(self) -> Iterator[None]:
        """Raises UserError: each cell computes itself only."""
        raise UserError(f"{self.label} is needed and has no result")
        yield
