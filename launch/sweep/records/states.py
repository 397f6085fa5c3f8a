"""The state of every cell: the store and the status files first; what the scheduler says fills in what they cannot."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.sweep.plan.plan import Plan, done_cells
from launch.sweep.records.attempts import (
    SILENT_SECONDS,
    is_dead_here,
    latest_attempt,
    newest_attempts,
    process_alive,
    read_attempt,
)
from launch.sweep.records.files import read_json, write_json
from launch.sweep.records.submissions import LIVE, Submission, read_all
from rnet.errors import UserError
from rnet.stages.graph import STAGE_NAMES

STATES = (
    "not submitted", "pending", "running", "done", "failed", "blocked", "timed out", "preempted", "lost"
)  # fmt: skip
RETRIED = ("failed", "blocked", "timed out", "preempted", "lost")
HINT_SECONDS = 10.0


@dataclass(slots=True)
class CellState:
    """Where a cell stands. alive: it will go on by itself. attempt: the number of its newest, 0 for none."""

    state: str
    alive: bool = False
    attempt: int = 0
    task: str | None = None
    error: str = ""
    status: Mapping[str, Any] | None = None
    silent: bool = False
    """Slurm says that its task runs, but nothing has been heard of it for too long."""


@dataclass(frozen=True)
class Place:
    """Where a submission puts a cell. task: Slurm's id ("123_4"), None without Slurm or while it is not known."""

    submission: Submission
    task: str | None


class StoreState:
    """What a store knows of a plan's cells at one moment. hint: what Slurm last said of tasks, None if not asked."""

    def __init__(self, plan: Plan, root: Path, *, fresh: bool = False, ask: bool = True) -> None:
        self.plan, self.root = plan, root
        self.submissions = read_all(root)
        self.places = _places(self.submissions)
        self._done = done_cells(plan, root)
        self._newest = {stage: newest_attempts(root, stage) for stage in STAGE_NAMES}
        self.trouble = ""
        self.hint: dict[str, str] | None = None
        self._heard: dict[str, float] = {}
        if ask:
            try:
                self.hint = self._ask(fresh)
            except UserError as error:
                self.trouble = str(error)
        self.cells = [self._state(place) for place in range(len(plan.cells))]

    def count(self) -> dict[str, Counter[str]]:
        """How many cells of each stage are in each state."""
        found: dict[str, Counter[str]] = {}
        for cell, state in zip(self.plan.cells, self.cells, strict=True):
            found.setdefault(cell.stage, Counter())[state.state] += 1
        return found

    def _ask(self, fresh: bool) -> dict[str, str] | None:
        """What Slurm says of the tasks with open cells: from a few seconds ago, or asked now."""
        from launch.sweep.clusters.slurm import array_states

        waiting = {cell.label for place, cell in enumerate(self.plan.cells) if place not in self._done}
        jobs = sorted(
            submission.job for submission in self.submissions
            if submission.kind == "slurm" and submission.job and not waiting.isdisjoint(submission.jobs)
        )  # fmt: skip
        if not jobs:
            return None
        path = self.root / "submissions" / ".hint.json"
        cached = None if fresh else read_json(path)
        if cached and cached["jobs"] == jobs and 0 <= time.time() - cached["time"] < HINT_SECONDS:
            return cached["states"]
        states = array_states(jobs)
        write_json(path, {"time": time.time(), "jobs": jobs, "states": states})
        return states

    def _state(self, place: int) -> CellState:
        cell = self.plan.cells[place]
        number = self._newest[cell.stage].get(cell.id, 0)
        if place in self._done:
            return CellState("done", attempt=number)
        status = read_attempt(self.root, cell.stage, cell.id, number) if number else None
        where = self.places.get(cell.label)
        if where is not None and number <= where.submission.jobs[cell.label]["dead"]:
            return self._waiting(where, number)  # all attempts are of earlier submissions
        if status is None:
            return CellState("not submitted")
        return self._tried(status, number, where)

    def _waiting(self, where: Place, number: int) -> CellState:
        """A submitted cell that its newest submission has not started."""
        submission = where.submission
        found = CellState("pending", alive=True, attempt=number, task=where.task)
        if self._silent(where.task):
            self._lose(found)
        elif submission.kind != "slurm":
            if submission.host == platform.node() and not _coordinator_lives(submission):
                found.state, found.alive, found.error = "lost", False, "its process pool ended"
        elif self.hint is not None and where.task is not None:
            word = self._said(where.task) or "lost"
            if word == "running" and len(submission.tasks[int(where.task.partition("_")[2])]) == 1:
                found.state = "running"  # it is loading its libraries
            if word not in ("pending", "running"):
                found.alive = False
                found.state = {"cancelled": "not submitted", "done": "lost"}.get(word, word)
                found.error = f"its task {where.task} ended before it started the cell (Slurm: {word})"
        return found

    def _tried(self, status: Mapping[str, Any], number: int, where: Place | None) -> CellState:
        """A cell whose newest attempt did not finish it."""
        word = status["state"]
        found = CellState(word, attempt=number, task=status.get("job"), error=status.get("error", ""), status=status)
        if word in ("failed", "blocked"):
            return found
        if found.task is None:
            found.alive = word == "running" and not is_dead_here(dict(status))
            if word == "running" and not found.alive:
                found.state, found.error = "lost", f"process {status['pid']} on {status['host']} ended without a word"
        else:
            said = None if self.hint is None else self._said(found.task) or "lost"
            if self._silent(found.task):
                self._lose(found)
            elif said in (None, "running", "pending"):
                found.alive = where is not None
                if word == "running" and said == "pending":
                    found.state = "preempted"  # requeued by Slurm, without having been told
            else:
                found.state = {"done": "lost", "cancelled": "not submitted"}.get(str(said), str(said))
                found.error = found.error or f"its task {found.task} ended without a word (Slurm: {said})"
        if where is None and not found.alive:
            found.state = "not submitted"  # its submission was cancelled
        return found

    def _said(self, task: str | None) -> str | None:
        """Slurm's word for a task, None if it has none."""
        word = (self.hint or {}).get(task or "")
        return "running" if word == "running long" else word

    def _silent(self, task: str | None) -> bool:
        """Whether Slurm says that a task has long been running, but none of its cells shows a heartbeat.

        The node hangs, or a restarted controller believes in a task that ended meanwhile.
        """
        if task is None or (self.hint or {}).get(task) != "running long":
            return False
        if task not in self._heard:
            job, _, number = task.partition("_")
            tasks = [s.tasks[int(number)] for s in self.submissions if s.job == job and s.kind == "slurm"]
            statuses = [latest_attempt(self.root, *label.split("/")) for labels in tasks for label in labels]
            self._heard[task] = max((status["updated"] for status in statuses if status), default=0.0)
        return time.time() - self._heard[task] > SILENT_SECONDS

    def _lose(self, found: CellState) -> None:
        found.state, found.alive, found.silent = "lost", False, True
        found.error = (
            f"Slurm says that its task {found.task} runs, but that has been silent for over {SILENT_SECONDS // 60} "
            f"minutes; submit or retry cancels it and starts the cell again"
        )


def live_tasks(submissions: Iterable[Submission]) -> dict[str, int]:
    """How many tasks each live array has, by job id."""
    return {s.job: len(s.tasks) for s in submissions if s.job and s.kind == "slurm" and s.state in LIVE}


def _places(submissions: Iterable[Submission]) -> dict[str, Place]:
    """The newest live submission of each cell and its task."""
    found = {}
    for submission in submissions:
        if submission.state in LIVE:
            for number, labels in enumerate(submission.tasks):
                known = submission.kind == "slurm" and submission.job is not None
                task = f"{submission.job}_{number}" if known else None
                for label in labels:
                    found[label] = Place(submission, task)
    return found


def _coordinator_lives(submission: Submission) -> bool:
    return submission.job is not None and process_alive(int(submission.job.removeprefix("pid:")))
