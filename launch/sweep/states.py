"""The state of every cell: the store and the status files first; what the cluster says fills in what they cannot."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.sweep.clusters.base import Cluster, make_cluster
from launch.sweep.plan.plan import Plan, done_cells
from launch.sweep.records.attempts import (
    BEAT_SECONDS,
    SILENT_SECONDS,
    STALE_BEATS,
    is_dead_here,
    latest_attempt,
    newest_attempts,
    read_attempt,
)
from launch.sweep.records.submissions import LIVE, Submission, by_profile, read_all, split_task, task_id
from rnet.errors import UserError
from rnet.stages.graph import STAGE_NAMES
from rnet.storage.json_files import read_json, write_json
from rnet.storage.shapes import NUMBER, fits

STATES = (
    "not submitted", "pending", "running", "done", "failed", "blocked", "timed out", "preempted", "lost"
)  # fmt: skip
UNKNOWN = "unknown"
"""What is said of a task that its cluster does not know: it is lost, once its heartbeat has stopped."""
RETRIED = ("failed", "blocked", "timed out", "preempted", "lost")


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
    """The cluster says that its task runs, but nothing has been heard of it for too long."""


@dataclass(frozen=True)
class Assigned:
    """Where a submission puts a cell. task: its id, None while the cluster's job is not known."""

    submission: Submission
    task: str | None


class StoreState:
    """What a store knows of a plan's cells at one moment. trouble: which cluster could not be asked, and why."""

    def __init__(self, plan: Plan, root: Path, *, fresh: bool = False, ask: bool = True) -> None:
        self.plan, self.root = plan, root
        self.submissions = read_all(root)
        self.assigned = _assigned(self.submissions)
        self._done = done_cells(plan, root)
        self._newest = {stage: newest_attempts(root, stage) for stage in STAGE_NAMES}
        self.trouble = ""
        self._of_token = {submission.token: submission for submission in self.submissions}
        self._clusters: dict[str, Cluster | None] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._said: dict[str, str] = {}
        self._heard: dict[str, list[tuple[float, str]]] = {}
        if ask:
            self._ask(fresh)
        self.cells = [self._state(index) for index in range(len(plan.cells))]

    def log_of(self, index: int) -> Path | None:
        """The file with what the cell's newest attempt, or the task that it waits for, has printed; None for none."""
        cell, found = self.plan.cells[index], self.cells[index]
        token = (found.status or {}).get("token")
        where = self.assigned.get(cell.label)
        submission = self._of_token.get(token) if token else where.submission if where else None
        if submission is None:
            return None
        if submission.token not in self._clusters:
            self._clusters[submission.token] = _cluster_of(submission)
            self._numbers |= {
                (submission.token, label): n for n, labels in enumerate(submission.tasks) for label in labels
            }
        cluster, number = self._clusters[submission.token], self._numbers.get((submission.token, cell.label))
        log = None if cluster is None or number is None else cluster.log(self.root, submission, number)
        return log if log is not None and os.path.exists(log) else None

    def _ask(self, fresh: bool) -> None:
        """Learns what clusters say of the tasks with open cells; a task that its cluster does not know is lost."""
        waiting = {cell.label for index, cell in enumerate(self.plan.cells) if index not in self._done}
        open_ones = [s for s in self.submissions if s.job and not waiting.isdisjoint(s.cells)]
        for members in by_profile(open_ones):
            try:
                states = _hint(self.root, make_cluster(members[0].profile), members, fresh)
            except UserError as error:
                self.trouble = str(error)
                continue
            self._said |= {task: states.get(task, UNKNOWN) for member in members for task in member.task_ids}

    def _state(self, index: int) -> CellState:
        cell = self.plan.cells[index]
        number = self._newest[cell.stage].get(cell.id, 0)
        if index in self._done:
            return CellState("done", attempt=number)
        status = read_attempt(self.root, cell.stage, cell.id, number) if number else None
        where = self.assigned.get(cell.label)
        if where is not None and number <= where.submission.cells[cell.label]["dead"]:
            return self._waiting(where, number)  # all attempts are of earlier submissions
        if status is None:
            return CellState("not submitted")
        return self._tried(status, number, where)

    def _waiting(self, where: Assigned, number: int) -> CellState:
        """A submitted cell that its newest submission has not started."""
        submission = where.submission
        found = CellState("pending", alive=True, attempt=number, task=where.task)
        if self._silent(where.task):
            self._lose(found)
        elif where.task is not None and (word := self._word(where.task)) is not None:
            if word == "running" and len(submission.tasks[split_task(where.task)[1]]) == 1:
                found.state = "running"  # it is loading its libraries
            if word not in ("pending", "running"):
                found.alive = False
                found.state = {"cancelled": "not submitted", "done": "lost"}.get(word, word)
                found.error = f"its task {where.task} ended before it started the cell ({submission.kind}: {word})"
        return found

    def _tried(self, status: Mapping[str, Any], number: int, where: Assigned | None) -> CellState:
        """A cell whose newest attempt did not finish it."""
        word = status["state"]
        found = CellState(word, attempt=number, task=status.get("job"), error=status.get("error", ""), status=status)
        if word in ("failed", "blocked"):
            return found
        if found.task is None:
            found.alive = word == "running" and not is_dead_here(dict(status))
            if word == "running" and not found.alive:
                found.state, found.error = "lost", f"process {status['pid']} on {status['host']} ended without a word"
            if word == "done":
                found.state, found.error = "lost", "its result was removed, or set aside as damaged"
        else:
            said = self._word(found.task)
            if self._silent(found.task):
                self._lose(found)
            elif said in (None, "running", "pending"):
                found.alive = where is not None
                if word == "running" and said == "pending":
                    found.state = "preempted"  # requeued by the cluster, without having been told
            else:
                found.state = {"done": "lost", "cancelled": "not submitted"}.get(str(said), str(said))
                found.error = found.error or f"its task {found.task} ended without a word (its cluster: {said})"
        if where is None and not found.alive:
            found.state = "not submitted"  # its submission was cancelled
        return found

    def _word(self, task: str) -> str | None:
        """The cluster's word for a task, None if it was not asked or did not answer."""
        word = self._said.get(task)
        if word == UNKNOWN:
            return "running" if time.time() - self._beat(task) < STALE_BEATS * BEAT_SECONDS else "lost"
        return "running" if word == "running long" else word

    def _silent(self, task: str | None) -> bool:
        """Whether the cluster says that a task has long been running, but none of its cells shows a heartbeat.

        The node hangs, or a restarted controller believes in a task that ended meanwhile.
        """
        if task is None or self._said.get(task) != "running long":
            return False
        return time.time() - max((at for at, _ in self._heard_of(task)), default=0.0) > SILENT_SECONDS

    def _beat(self, task: str) -> float:
        """When an attempt of the task that has not ended has last shown its heartbeat; 0 for never."""
        return max((at for at, state in self._heard_of(task) if state == "running"), default=0.0)

    def _heard_of(self, task: str) -> list[tuple[float, str]]:
        """When the newest attempt of each of the task's cells was last heard of, and its state."""
        if task not in self._heard:
            job, number = split_task(task)
            tasks = [submission.tasks[number] for submission in self.submissions if submission.job == job]
            statuses = [latest_attempt(self.root, *label.split("/")) for labels in tasks for label in labels]
            self._heard[task] = [(status["updated"], status["state"]) for status in statuses if status]
        return self._heard[task]

    def _lose(self, found: CellState) -> None:
        found.state, found.alive, found.silent = "lost", False, True
        found.error = (
            f"its cluster says that task {found.task} runs, but that has been silent for over {SILENT_SECONDS // 60} "
            f"minutes; submit or retry cancels it and starts the cell again"
        )


def _cluster_of(submission: Submission) -> Cluster | None:
    """The cluster of a submission; None for one that is not there any more."""
    try:
        return make_cluster(submission.profile)
    except UserError:
        return None


def _hint(root: Path, cluster: Cluster, members: Sequence[Submission], fresh: bool) -> dict[str, str]:
    """What a cluster says of submissions, from a few seconds ago or asked now."""
    path = root / "submissions" / ".hint.json"
    jobs = sorted(submission.job or "" for submission in members)
    cached = None if fresh or not cluster.hint_seconds else read_json(path)
    if not fits(cached, {"time": NUMBER, "jobs": [str], "states": {str: str}}):
        cached = None
    if cached and cached["jobs"] == jobs and 0 <= time.time() - cached["time"] < cluster.hint_seconds:
        return cached["states"]
    states = cluster.states(members)
    if cluster.hint_seconds:
        write_json(path, {"time": time.time(), "jobs": jobs, "states": states})
    return states


def _assigned(submissions: Iterable[Submission]) -> dict[str, Assigned]:
    """The newest live submission of each cell and its task."""
    found = {}
    for submission in submissions:
        if submission.state in LIVE:
            for number, labels in enumerate(submission.tasks):
                task = task_id(submission.job, number) if submission.job else None
                for label in labels:
                    found[label] = Assigned(submission, task)
    return found
