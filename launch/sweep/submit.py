"""Submitting what is missing, retrying what failed, cancelling: each under the store's lock, each safe to repeat."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from launch.sweep.clusters import slurm
from launch.sweep.clusters.arrays import Array, dependency, make_arrays
from launch.sweep.clusters.snapshot import take_snapshot
from launch.sweep.plan.plan import Plan, save_plan
from launch.sweep.records import submissions
from launch.sweep.records.attempts import process_alive
from launch.sweep.records.submissions import LIVE, Submission, new_submission, submitting
from launch.sweep.states import RETRIED, StoreState, live_tasks
from launch.sweep.work.task import ArrayTask
from rnet.errors import UserError


@dataclass
class Report:
    """What a submission did. cells: how many were handed out; elsewhere: pending or running already; recovered: jobs
    found again whose submitter had died."""

    cells: int = 0
    done: int = 0
    elsewhere: int = 0
    left: int = 0
    jobs: list[str] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)


Entry = Callable[[Path, str], Callable[[], None]]


def submit(plan: Plan, root: Path, *, retry: bool = False, wait: bool = False, entry: Entry = ArrayTask) -> Report:
    """Hands out the cells that were never tried; with retry those that failed instead.

    Returns as soon as the cluster has them. wait: cluster=local and mpi only: returns when all have ended. Raises
    UserError if the cluster refuses; what it took before stays submitted, and the same command goes on from there.
    """
    if plan.profile.kind == "slurm":
        slurm.require_slurm()
    root = root.expanduser().resolve()
    with submitting(root):
        report = Report(recovered=_recover(root))
        state = StoreState(plan, root, fresh=True)
        if state.trouble:
            raise UserError(state.trouble)
        wanted = _wanted(plan, state, retry, report)
        save_plan(plan, root)
        if wanted:
            slurm.cancel_jobs(sorted({state.cells[p].task or "" for p in wanted if state.cells[p].silent}))
            report.cells = len(wanted)
            dead = {plan.cells[place].label: state.cells[place].attempt for place in wanted}
            if plan.profile.kind == "slurm":
                _submit_arrays(plan, root, wanted, dead, state, report, entry)
                return report
            submission = _start_pool(plan, root, wanted, dead)
            report.jobs.append(submission.job or "")
    while wanted and wait and process_alive(int(report.jobs[0].removeprefix("pid:"))):
        time.sleep(0.1)
    return report


def _wanted(plan: Plan, state: StoreState, retry: bool, report: Report) -> list[int]:
    """Places of the cells to hand out: with retry what failed and the parents it misses, else what was never tried.

    What could only be blocked, because a parent failed and is not retried, is left.
    """
    chosen: set[int] = set()
    for place in reversed(range(len(plan.cells))):
        cell = state.cells[place]
        if cell.state == "done" or cell.alive:
            continue
        if cell.state in (RETRIED if retry else ("not submitted", "lost")) or place in chosen:
            chosen.add(place)
            if retry:
                chosen |= {p for p in plan.cells[place].parents if state.cells[p].state != "done"}
    found: list[int] = []
    coming = {place for place, cell in enumerate(state.cells) if cell.state == "done" or cell.alive}
    for place, cell in enumerate(state.cells):
        if cell.state == "done":
            report.done += 1
        elif cell.alive:
            report.elsewhere += 1
        elif place in chosen and coming.issuperset(plan.cells[place].parents):
            found.append(place)
            coming.add(place)
        else:
            report.left += 1
    return found


def plan_arrays(plan: Plan, wanted: Collection[int], *, max_size: int | None = None) -> list[Array]:
    """The arrays in which the cells would be submitted."""
    size = min(plan.profile.max_array_size, max_size or plan.profile.max_array_size)
    return make_arrays(plan, wanted, max_size=size, max_arrays=plan.profile.max_submissions)


def cancel(plan: Plan, root: Path) -> int:
    """Stops the sweep's submissions and returns how many there were. What is done stays; checkpoints stay."""
    root = root.expanduser().resolve()
    with submitting(root):
        _recover(root)
        stopped = [s for s in submissions.read_all(root) if s.sweep == plan.name and s.state in LIVE]
        for submission in stopped:  # first, so that nothing requeues itself
            submission.state = "cancelled"
            submissions.save(root, submission)
        slurm.cancel_jobs(s.job for s in stopped if s.kind == "slurm" and s.job)
        for submission in stopped:
            if submission.kind != "slurm" and submission.host == os.uname().nodename and submission.job:
                pid = int(submission.job.removeprefix("pid:"))
                if process_alive(pid):
                    os.kill(pid, signal.SIGTERM)
    return len(stopped)


def _submit_arrays(
    plan: Plan, root: Path, wanted: list[int], dead: dict[str, int], state: StoreState, report: Report, entry: Entry
) -> None:
    snapshot = take_snapshot(root)
    sizes = live_tasks(state.submissions)
    task_of = {}
    for place, cell in enumerate(plan.cells):
        where = state.places.get(cell.label)
        if where is not None and where.task is not None and state.cells[place].alive:
            task_of[place] = where.task
    for array in plan_arrays(plan, wanted, max_size=slurm.max_array_size()):
        submission = new_submission(plan, array.stage, array.tasks, dead, snapshot.name)
        after = dependency(plan, array, task_of, sizes)
        job = _submit_array(plan, root, submission, array, snapshot, after, entry)
        report.jobs.append(job)
        sizes[job] = len(array.tasks)
        task_of |= {place: f"{job}_{number}" for number, task in enumerate(array.tasks) for place in task}


def _submit_array(
    plan: Plan, root: Path, submission: Submission, array: Array, snapshot: Path, after: str | None, entry: Entry
) -> str:
    """Record, sbatch, record: a crash at any moment leaves a record whose job can be found by its name."""
    folder = root / "jobs" / submission.token
    executor = slurm.ArrayExecutor(folder, python=plan.profile.python)
    executor.update_parameters(**slurm.parameters(plan.profile, array.shape, submission.name, folder, snapshot, after))
    submissions.save(root, submission)
    try:
        submission.job = executor.submit_array_of(len(array.tasks), entry(root, submission.token))
    except UserError:
        _recover(root)
        raise
    submission.state = "submitted"
    submissions.save(root, submission)
    return submission.job


def _recover(root: Path) -> list[str]:
    """Completes the records that a submitter left unfinished, and returns the jobs found. Raises if Slurm is mute.

    A record whose job Slurm does not know becomes void, also for the job itself, should it turn up late.
    """
    open_records = [s for s in submissions.read_all(root) if s.state == "intended" and s.kind == "slurm"]
    jobs = slurm.find_jobs(s.name for s in open_records)
    for submission in open_records:
        submission.job = jobs.get(submission.name)
        submission.state = "void" if submission.job is None else "submitted"
        submissions.save(root, submission)
    return [s.job for s in open_records if s.job is not None]


def _start_pool(plan: Plan, root: Path, wanted: list[int], dead: dict[str, int]) -> Submission:
    from launch.sweep.clusters.local import start_pool

    submission = new_submission(plan, "cells", [[place] for place in wanted], dead, None)
    submissions.save(root, submission)
    submission.job = f"pid:{start_pool(plan.profile, root, submission)}"
    return submission
