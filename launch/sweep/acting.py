"""What the commands of `rnet sweep` do with what was typed; torch is imported by those that need it."""

from __future__ import annotations

import gc
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rnet.errors import UserError

if TYPE_CHECKING:
    from launch.sweep.clusters.base import Cluster
    from launch.sweep.plan.plan import Plan


@dataclass(frozen=True)
class Given:
    """A sweep as it was typed: its file, the changes to it, the store, and the folder of the user's own options."""

    file: Path
    changes: list[str]
    root: Path
    config_dir: Path | None

    @property
    def all(self) -> tuple[Path, list[str], Path, Path | None]:
        """As functions take them one by one."""
        return self.file, self.changes, self.root, self.config_dir


def _cluster(plan: Plan, config_dir: Path | None) -> Cluster:
    """The cluster of a fresh plan, from its profile's file: errors name the line."""
    from launch.sweep.clusters.base import make_cluster
    from launch.sweep.plan.resources import load_profile
    from rnet.config.compose import config_folder

    folders = [config_folder(), *([config_dir] if config_dir else [])]
    return make_cluster(load_profile(plan.cluster, folders), plan.cluster)


def show_plan(given: Given, *, check: bool, cells: bool, as_json: bool) -> None:
    """The plan, or with cells all its cells; check builds every model first."""
    from launch.sweep.plan.expand import check_deeply, make_plan
    from launch.sweep.show import planned
    from rnet.data.files.digest import looked_at_once

    with looked_at_once(given.root):
        plan = make_plan(given.file, given.changes, config_dir=given.config_dir)
        cluster = _cluster(plan, given.config_dir)
        if check:
            check_deeply(plan)
    folder = ["--config-dir", str(given.config_dir)] if given.config_dir else []
    words = ["rnet", "sweep", "run", str(given.file), "CELL", *given.changes, "--root", str(given.root), *folder]
    planned.show_plan(plan, given.root, cluster, cells=cells, as_json=as_json, command=shlex.join(words))


def show_difference(given: Given, against: str, *, listing: bool, as_json: bool) -> None:
    """What differs from another file, or from what was submitted. listing: whether --cells or --check was typed."""
    from launch.sweep.plan.expand import make_plan
    from launch.sweep.plan.plan import plan_path, read_plan
    from launch.sweep.show.planned import show_comparison

    if listing:
        raise UserError("--against shows what differs, with neither --cells nor --check; take them out")
    plan = make_plan(given.file, given.changes, config_dir=given.config_dir, root=given.root)
    if against == "submitted":
        old = read_plan(plan_path(given.root, plan.name))
    else:
        old = make_plan(Path(against), config_dir=given.config_dir, root=given.root)
    show_comparison(plan, old, given.root, names=(str(given.file), against), as_json=as_json)


def run_cell(given: Given, cell: str) -> None:
    """Computes one cell here."""
    from launch.sweep.here import find_cell, run_here

    run_here(*find_cell(cell, *given.all), given.root)


def hand_out(given: Given, *, retry: bool, wait: bool, limit: int | None = None) -> None:
    """Submits what is missing or, with retry, what failed, and says how much that was."""
    from launch.sweep.plan.expand import check_deeply, make_plan
    from launch.sweep.submit import submit
    from rnet.data.files.digest import looked_at_once, remember_looks

    with looked_at_once(given.root):
        plan = make_plan(given.file, given.changes, config_dir=given.config_dir)
        cluster = _cluster(plan, given.config_dir)
        cluster.require()
        check_deeply(plan)
        remember_looks(given.root)
    found = submit(plan, given.root, retry=retry, wait=wait, limit=limit)
    for job in found.recovered:
        print(f"found job {job} again, whose submission had been cut off")  # noqa: T201
    where = f" in {len(found.jobs)} arrays: {' '.join(found.jobs)}" if cluster.queued else ""
    print(f"{plan.name}: submitted {found.cells} cells{where if found.cells else ''}")  # noqa: T201
    left = "not submitted yet (rnet sweep submit)" if retry else "failed before (rnet sweep retry starts them again)"
    elsewhere = f"to submit again later: their parents run where cluster={plan.cluster} cannot wait for them"
    for number, words in ((found.done, "done already"), (found.elsewhere, "under way"), (found.left, left),
                          (found.later, "for later (rnet sweep submit without --limit)"),
                          (found.waiting, elsewhere)):  # fmt: skip
        if number:
            print(f"{number} cells {words}")  # noqa: T201


def see_doctor(root: Path, write: Path | None, *, as_json: bool) -> None:
    """What the cluster offers; ends with status 1 if something will not work. write: where a profile is to go."""
    from launch.sweep.clusters.site import read_site
    from launch.sweep.doctor import here, profile, site

    if write is not None:
        profile.check_place(write)
    offered, why = None, ""
    try:
        offered = read_site()
    except UserError as error:
        why = str(error)
    of_site = site.findings_of(offered) if offered else here.findings_here(why)
    found = [*of_site, *here.folder_findings(root)]
    here.show(found, as_json=as_json)
    if write is not None:
        if offered is None:
            raise UserError(f"--write {write}: no Slurm answers here to write of; cluster=local needs no profile")
        profile.write_profile(offered, write)
        if not as_json:
            where = f"--config-dir {write.absolute().parent.parent} cluster={write.stem}"
            print(f"\nwritten: {write}; use it with {where}")  # noqa: T201
    if offered is None or any(finding.bad for finding in found):
        raise SystemExit(1)


def show_status(given: Given, *, watch: bool, by: tuple[str, ...], cells: bool, as_json: bool) -> None:
    """The states, once or until nothing is under way; ends with the status that says how it is."""
    from launch.sweep.show import screen
    from launch.sweep.show.current import current_plan
    from launch.sweep.show.status import exit_status

    if watch and (cells or as_json):
        raise UserError(f"--watch shows a table; take {'--json' if as_json else '--cells'} out")
    if watch:
        found = screen.watch(lambda known: current_plan(*given.all, known), by=by)
    else:
        gc.disable()  # a plan's thousands of objects all stay; looking for garbage among them takes a fifth of the time
        try:
            found = screen.show(current_plan(*given.all), by=by, cells=cells, as_json=as_json)
        finally:
            gc.enable()
    if status := exit_status(found):
        raise SystemExit(status)


def cancel_all(file: Path, root: Path) -> None:
    """Stops what is under way and says what that was."""
    from launch.sweep.show.current import saved_plan
    from launch.sweep.submit import cancel

    plan = saved_plan(file, root)
    stopped = cancel(plan, root)
    if not stopped.jobs:
        print(f"nothing of {plan.name} is under way; nothing was stopped")  # noqa: T201
        return
    states = ", ".join(f"{number} {state}" for state, number in stopped.cells.items()) or "none"
    count = sum(stopped.cells.values())
    jobs = f"{len(stopped.jobs)} job{'s' if len(stopped.jobs) > 1 else ''}: {' '.join(stopped.jobs)}"
    print(f"stopped {count} cell{'s' if count != 1 else ''} ({states}) in {jobs}")  # noqa: T201
    print("rnet sweep submit goes on from the last checkpoints")  # noqa: T201


def make_board(given: Given) -> None:
    """Writes the folder for TensorBoard and says how to look at it."""
    from launch.sweep.show.board import write_board
    from launch.sweep.show.current import current_plan

    current = current_plan(*given.all)
    for line in current.changes:
        print(line, file=sys.stderr)  # noqa: T201
    board, runs = write_board(current.plan, given.root)
    print(f"{runs} runs; tensorboard --logdir {shlex.quote(str(board))}")  # noqa: T201


def clean_store(root: Path, days: float, *, yes: bool, as_json: bool) -> None:
    """Shows what no sweep refers to; yes removes it."""
    from launch.sweep.clean import clean
    from launch.sweep.show.cleaned import show_cleaned

    show_cleaned(clean(root, days=days, remove=yes), days=days, removed=yes, as_json=as_json)


def show_report(given: Given, tables: list[str], kind: str, out: Path | None, compare: Path | None) -> None:
    """The tables; ends with status 1 while rows are missing."""
    from launch.sweep.show.current import current_plan
    from launch.sweep.show.report import Other, complete, report

    current = current_plan(*given.all)
    plan = current.plan
    for line in current.changes:
        print(line, file=sys.stderr)  # noqa: T201
    other = None
    if compare is not None and compare.is_dir():
        there = current_plan(*replace(given, root=compare).all).plan
        other = Other(there, compare, f"{plan.name} in {compare}")
    elif compare is not None:
        second = current_plan(compare, [], given.root, given.config_dir).plan
        other = Other(second, given.root, second.name)
    print(report(plan, given.root, tables, kind, out, given.file, other), end="")  # noqa: T201
    if not complete(plan, given.root):
        raise SystemExit(1)
