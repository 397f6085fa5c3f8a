"""Submitting what is missing, retrying what failed, cancelling: each under the store's lock, each safe to repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch.sweep.clusters.arrays import Array, needed_tasks
from launch.sweep.clusters.base import Cluster, Full, living, make_cluster
from launch.sweep.clusters.snapshot import take_snapshot
from launch.sweep.plan.order import cells_of_first
from launch.sweep.plan.plan import Cell, Plan, save_plan
from launch.sweep.records import submissions
from launch.sweep.records.submissions import LIVE, Submission, by_profile, new_submission, submitting
from launch.sweep.states import RETRIED, StoreState
from rnet.errors import UserError


@dataclass
class Report:
    """What a submission did. cells: how many were handed out; elsewhere: pending or running already; later: beyond the
    limit; waiting: whose parents run where this cluster cannot wait for them; recovered: jobs found again whose
    submitter had died."""

    cells: int = 0
    done: int = 0
    elsewhere: int = 0
    left: int = 0
    later: int = 0
    waiting: int = 0
    jobs: list[str] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)


def submit(
    plan: Plan, root: Path, *, retry: bool = False, wait: bool = False, limit: int | None = None
) -> Report:  # fmt: skip
    """Hands out the cells that were never tried; with retry those that failed instead.

    limit: so many rows, in the order in which rows are tried, and what they need; the rest is left.

    Returns as soon as the cluster has them, or with wait when they have ended. Raises UserError if the cluster refuses;
    what it took before stays submitted, and the same command goes on from there.
    """
    cluster = make_cluster(plan.profile, plan.cluster)
    cluster.require()
    root = root.resolve()
    among = range(len(plan.cells)) if limit is None else cells_of_first(plan, limit)
    with submitting(root):
        report = Report(recovered=_recover(root))
        state = StoreState(plan, root, fresh=True)
        if state.trouble:
            raise UserError(state.trouble)
        wanted = _wanted(plan, state, among, retry, report, cluster.kind)
        save_plan(plan, root)
        _cancel_silent(state, wanted)
        started = _hand_out(plan, root, cluster, wanted, state, report)
    if wait:
        cluster.wait(started)
    return report


@dataclass(frozen=True)
class Stopped:
    """What a cancellation stopped. cells: how many were in which state; jobs: the clusters' ids."""

    cells: dict[str, int]
    jobs: list[str]


def cancel(plan: Plan, root: Path) -> Stopped:
    """Stops the sweep's submissions that are under way, and says what of them was. What is done and saved stays.

    Raises UserError if a cluster is mute: then its submissions are stopped as far as they can be.
    """
    root = root.resolve()
    with submitting(root):
        _recover(root)
        ours = [s for s in submissions.read_all(root) if s.sweep == plan.name and s.state in LIVE]
        stopped, _ = living(ours)
        state = StoreState(_cells_of(stopped), root, fresh=True)
        cells = Counter(cell.state for cell in state.cells if cell.alive or cell.silent)
        for submission in stopped:  # first, so that nothing requeues itself
            submission.state = "cancelled"
            submissions.save(root, submission)
        jobs = [submission.job for submission in stopped if submission.job]
        _stop(stopped, jobs)
    return Stopped(dict(cells), jobs)


def _cells_of(among: Iterable[Submission]) -> Plan:
    """A plan of nothing but the cells that the submissions have."""
    labels = dict.fromkeys(label for submission in among for label in submission.cells)
    cells = [
        Cell(stage, cell_id, (), 0, index)
        for index, (stage, _, cell_id) in enumerate(label.partition("/") for label in labels)
    ]
    return Plan(name="", cluster="", profile={}, cells=cells, rows=[], shapes=[])


def _wanted(
    plan: Plan, state: StoreState, among: Collection[int], retry: bool, report: Report, kind: str
) -> list[int]:  # fmt: skip
    """Indices of the cells to hand out: with retry what failed and the parents it misses, else what was never tried.

    What could only be blocked is left: a parent failed and is not retried, or it is under way on another kind of
    cluster or by hand, where tasks of this one cannot wait for it.
    """
    chosen: set[int] = set()
    for index in reversed(range(len(plan.cells))):
        cell = state.cells[index]
        if cell.state == "done" or cell.alive:
            continue
        if cell.state in (RETRIED if retry else ("not submitted", "lost")) or index in chosen:
            chosen.add(index)
            if retry:
                chosen |= {p for p in plan.cells[index].parents if state.cells[p].state != "done"}
    found: list[int] = []
    coming: set[int] = set()
    away: set[int] = set()
    for index, cell in enumerate(state.cells):
        if cell.state == "done" or cell.alive:
            where = state.assigned.get(plan.cells[index].label)
            here = cell.state == "done" or (where is not None and where.submission.kind == kind)
            (coming if here else away).add(index)
    for index, cell in enumerate(state.cells):
        if cell.state == "done":
            report.done += 1
        elif cell.alive:
            report.elsewhere += 1
        elif index not in among:
            report.later += 1
        elif index in chosen and coming.issuperset(plan.cells[index].parents):
            found.append(index)
            coming.add(index)
        elif index in chosen and (coming | away).issuperset(plan.cells[index].parents):
            report.waiting += 1
            away.add(index)
        else:
            report.left += 1
    return found


def _hand_out(
    plan: Plan, root: Path, cluster: Cluster, wanted: list[int], state: StoreState, report: Report
) -> list[Submission]:
    """Submits the wanted cells in arrays that wait for their parents."""
    if not wanted:
        return []
    report.cells = len(wanted)
    arrays = cluster.arrays(plan, wanted)
    cluster.check(arrays)
    snapshot = take_snapshot(root).name
    dead = {plan.cells[index].label: state.cells[index].attempt for index in wanted}
    sizes = {s.job: len(s.tasks) for s in state.submissions if s.job and s.state in LIVE}
    task_of = {
        index: where.task
        for index, cell in enumerate(plan.cells)
        if (where := state.assigned.get(cell.label)) is not None
        and where.task is not None
        and where.submission.kind == cluster.kind
        and state.cells[index].alive
    }
    started: list[Submission] = []

    def start(array: Array) -> None:
        after = needed_tasks(plan, array, task_of, sizes)
        submission = new_submission(plan, array.stage, array.tasks, dead, snapshot)
        submissions.save(root, submission)  # a crash at any moment leaves a record whose job is found by its name
        try:
            submission.job = cluster.start(root, submission, array, after)
        except Full:
            submission.state = "void"
            submissions.save(root, submission)
            raise
        submission.state = "submitted"
        submissions.save(root, submission)
        started.append(submission)
        report.jobs.append(submission.job)
        sizes[submission.job] = len(array.tasks)
        task_of.update(
            (index, task) for cells, task in zip(array.tasks, submission.task_ids, strict=True) for index in cells
        )

    for array in arrays:
        try:
            _start_as_fits(array, start)
        except Full as error:
            taken = sum(len(submission.cells) for submission in started)
            raise Full(
                f"{array.stage} ({array.shape}): {error}; {taken} of {len(wanted)} cells are submitted and stay so, "
                "submit again for the others when some have ended"
            ) from None
        except UserError as error:
            with suppress(UserError):  # a cluster that is mute now will be asked again
                _recover(root)
            raise UserError(f"{array.stage} ({array.shape}): {error}") from None
    return started


def _start_as_fits(array: Array, start: Callable[[Array], None]) -> None:
    """Starts an array, in ever smaller ones where its cluster takes so many tasks no more; Full when it takes none."""
    size, rest = len(array.tasks), array.tasks
    while rest:
        try:
            start(replace(array, tasks=rest[:size]))
            rest = rest[size:]
        except Full:
            if size == 1:
                raise
            size = min(size, len(rest)) // 2 or 1


def _recover(root: Path) -> list[str]:
    """Completes the records that a submitter left unfinished, and returns the jobs found. Raises if a cluster is mute.

    A record whose job its cluster does not know becomes void, also for the job itself, should it turn up late.
    """
    open_records = [s for s in submissions.read_all(root) if s.state == "intended"]
    for members in by_profile(open_records):
        jobs = make_cluster(members[0].profile).find([submission.name for submission in members])
        for submission in members:
            submission.job = jobs.get(submission.name)
            submission.state = "void" if submission.job is None else "submitted"
            submissions.save(root, submission)
    return [s.job for s in open_records if s.job is not None]


def _cancel_silent(state: StoreState, wanted: Iterable[int]) -> None:
    """Stops the tasks that their cluster calls running and of which nothing is heard."""
    silent = {state.cells[index].task for index in wanted if state.cells[index].silent}
    _stop(state.submissions, sorted(task for task in silent if task is not None))


def _stop(among: Iterable[Submission], ids: list[str]) -> None:
    """Cancels jobs and tasks of these submissions, each at its own cluster."""
    for members in by_profile(among):
        jobs = {submission.job for submission in members}
        own = [given for given in ids if given in jobs or given.rpartition("_")[0] in jobs]
        if own:
            make_cluster(members[0].profile).cancel(own)
