"""`rnet sweep plan | submit | run | status | retry | cancel | report SWEEP.yaml`."""

from __future__ import annotations

import gc
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rnet.command.app import run
from rnet.command.options import DEFAULT_ROOT, AsJson, ConfigDir, Format, Out, Root, Tables
from rnet.errors import UserError

if TYPE_CHECKING:
    from launch.sweep.clusters.base import Cluster
    from launch.sweep.plan.plan import Plan

sweep_app = typer.Typer(
    help="Many runs at once: axes in a file become a graph of stages, each computed once, on Slurm, MPI or here.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep file, e.g. configs/sweep/dev.yaml.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="What to set differently: cluster=local axes.seed=[0,1]."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when all cells have ended.")]


@sweep_app.command("plan")
def plan_command(
    file: File,
    changes: Changes = None,
    root: Root = DEFAULT_ROOT,
    config_dir: ConfigDir = None,
    check: Annotated[bool, typer.Option("--check", help="Also build each model on its dataset, like submit.")] = False,
    cells: Annotated[bool, typer.Option("--cells", help="Each cell: axis values, state, what it waits for.")] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="OLD.yaml|submitted",
            help="What differs from another version of the file, or from what was submitted.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show cells, what is done, arrays, resources and the sbatch text; submit nothing."""
    lines = changes or []
    if against is None:
        run(lambda: _show_plan(file, lines, root, config_dir, check=check, cells=cells, as_json=as_json))
    else:
        run(lambda: _show_difference(file, lines, root, config_dir, against, listing=cells or check, as_json=as_json))


@sweep_app.command("submit")
def submit_command(
    file: File,
    changes: Changes = None,
    root: Root = DEFAULT_ROOT,
    config_dir: ConfigDir = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Only N rows, those with one of each kind first.")
    ] = None,
    wait: Wait = False,
) -> None:
    """Submit the cells that are missing, and return; again, it goes on from where it was."""
    run(lambda: _submit(file, changes or [], root, config_dir, retry=False, wait=wait, limit=limit))


@sweep_app.command("retry")
def retry_command(
    file: File, changes: Changes = None, root: Root = DEFAULT_ROOT, config_dir: ConfigDir = None, wait: Wait = False
) -> None:
    """Submit again the cells that failed, timed out, were lost, or lacked a parent that did; nothing else."""
    run(lambda: _submit(file, changes or [], root, config_dir, retry=True, wait=wait))


@sweep_app.command("run")
def run_command(
    file: File,
    cell: Annotated[
        str, typer.Argument(metavar="CELL", help="Its id, or its axis values in quotes, as plan --cells shows them.")
    ],
    changes: Changes = None,
    root: Root = DEFAULT_ROOT,
    config_dir: ConfigDir = None,
) -> None:
    """Compute one cell here, as its task would, after the parents it lacks; exit status 1 if it fails."""
    run(lambda: _run(file, cell, changes or [], root, config_dir))


@sweep_app.command("status")
def status_command(
    file: File,
    changes: Changes = None,
    root: Root = DEFAULT_ROOT,
    config_dir: ConfigDir = None,
    watch: Annotated[bool, typer.Option("--watch", help="Live, until nothing is under way.")] = False,
    by: Annotated[
        str | None, typer.Option("--by", metavar="AXIS[,AXIS]", help="Count cells by the values of axes: attack,seed.")
    ] = None,
    cells: Annotated[bool, typer.Option("--cells", help="Also list every cell that is not done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show states, progress, time left and failures of the file as it is now.

    Exit status 0: all done; 3: under way; 1: something failed; 4: something was not submitted; 2: a mistake.
    """
    axes = tuple(axis.strip() for axis in by.split(",")) if by else ()
    run(lambda: _show_status(file, changes or [], root, config_dir, watch=watch, by=axes, cells=cells, as_json=as_json))


@sweep_app.command("cancel")
def cancel_command(file: File, root: Root = DEFAULT_ROOT) -> None:
    """Stop what waits and runs; results and checkpoints stay."""
    run(lambda: _cancel(file, root))


@sweep_app.command("board")
def board_command(file: File, changes: Changes = None, root: Root = DEFAULT_ROOT, config_dir: ConfigDir = None) -> None:
    """Make one TensorBoard folder of all curves, with HPARAMS that compare cells; again, it adds what is new."""
    run(lambda: _board(file, changes or [], root, config_dir))


@sweep_app.command("clean")
def clean_command(
    root: Root = DEFAULT_ROOT,
    days: Annotated[float, typer.Option("--days", metavar="N", help="Only what nobody has touched for N days.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what no sweep of the store refers to: stages, records, snapshots; remove it with --yes."""
    run(lambda: _clean(root, days, yes=yes, as_json=as_json))


@sweep_app.command("report")
def report_command(
    file: File,
    changes: Changes = None,
    root: Root = DEFAULT_ROOT,
    config_dir: ConfigDir = None,
    tables: Tables = None,
    kind: Format = "markdown",
    out: Out = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="SWEEP.yaml|DIR",
            help="Beside another sweep of this store, or this one in another store.",
        ),
    ] = None,
) -> None:
    """The tables of a paper: fidelity, scores, costs, separation, negatives; exit status 1 while rows are missing."""
    run(lambda: _report(file, changes or [], root, config_dir, tables or [], kind, out, compare))


@sweep_app.command("doctor")
def doctor_command(
    root: Root = DEFAULT_ROOT,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="DIR/cluster/NAME.yaml", help="Also write a profile; never over another file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the cluster here offers and what it means for sweeps; exit status 1 if something will not work."""
    run(lambda: _doctor(root, write, as_json=as_json))


def _cluster(plan: Plan, config_dir: Path | None) -> Cluster:
    """The cluster of a fresh plan, from its profile's file: errors name the line."""
    from launch.sweep.clusters.base import make_cluster
    from launch.sweep.plan.resources import load_profile
    from rnet.config.compose import config_folder

    folders = [config_folder(), *([config_dir] if config_dir else [])]
    return make_cluster(load_profile(plan.cluster, folders), plan.cluster)


def _show_plan(
    file: Path, changes: list[str], root: Path, config_dir: Path | None, *, check: bool, cells: bool, as_json: bool
) -> None:
    from launch.sweep.plan.expand import check_deeply, make_plan
    from launch.sweep.show.planned import show_plan
    from rnet.data.files.digest import looked_at_once

    with looked_at_once(root.expanduser()):
        plan = make_plan(file, changes, config_dir=config_dir)
        cluster = _cluster(plan, config_dir)
        if check:
            check_deeply(plan)
    folder = ["--config-dir", str(config_dir)] if config_dir else []
    words = ["rnet", "sweep", "run", str(file), "CELL", *changes, "--root", str(root), *folder]
    show_plan(plan, root, cluster, cells=cells, as_json=as_json, command=shlex.join(words))


def _show_difference(
    file: Path, changes: list[str], root: Path, config_dir: Path | None, against: str, *, listing: bool, as_json: bool
) -> None:
    from launch.sweep.plan.expand import make_plan
    from launch.sweep.plan.plan import read_plan
    from launch.sweep.show.planned import show_comparison
    from rnet.data.files.digest import looked_at_once

    if listing:
        raise UserError("--against shows what differs, with neither --cells nor --check; take them out")
    with looked_at_once(root.expanduser()):
        plan = make_plan(file, changes, config_dir=config_dir)
        if against == "submitted":
            old = read_plan(root / "sweeps" / f"{plan.name}.json")
        else:
            old = make_plan(Path(against), config_dir=config_dir)
    show_comparison(plan, old, root, names=(str(file), against), as_json=as_json)


def _run(file: Path, cell: str, changes: list[str], root: Path, config_dir: Path | None) -> None:
    from launch.sweep.here import find_cell, run_here

    run_here(*find_cell(file, cell, root, changes, config_dir), root)


def _submit(
    file: Path,
    changes: list[str],
    root: Path,
    config_dir: Path | None,
    *,
    retry: bool,
    wait: bool,
    limit: int | None = None,
) -> None:
    from launch.sweep.plan.expand import check_deeply, make_plan
    from launch.sweep.submit import submit
    from rnet.data.files.digest import looked_at_once, remember_looks

    with looked_at_once(root.expanduser()):
        plan = make_plan(file, changes, config_dir=config_dir)
        cluster = _cluster(plan, config_dir)
        cluster.require()
        check_deeply(plan)
        remember_looks(root.expanduser())
    found = submit(plan, root, retry=retry, wait=wait, limit=limit)
    for job in found.recovered:
        print(f"found job {job} again, whose submission had been cut off")  # noqa: T201
    where = f" in {len(found.jobs)} arrays: {' '.join(found.jobs)}" if cluster.queued else ""
    print(f"{plan.name}: submitted {found.cells} cells{where if found.cells else ''}")  # noqa: T201
    left = "not submitted yet (rnet sweep submit)" if retry else "failed before (rnet sweep retry starts them again)"
    for number, words in ((found.done, "done already"), (found.elsewhere, "under way"), (found.left, left),
                          (found.later, "for later (rnet sweep submit without --limit)")):  # fmt: skip
        if number:
            print(f"{number} cells {words}")  # noqa: T201


def _doctor(root: Path, write: Path | None, *, as_json: bool) -> None:
    from launch.sweep import doctor, doctor_here, doctor_profile
    from launch.sweep.clusters.site import read_site

    if write is not None:
        doctor_profile.check_place(write)
    site, why = None, ""
    try:
        site = read_site()
    except UserError as error:
        why = str(error)
    of_site = doctor.findings_of(site) if site else doctor_here.findings_here(why)
    found = [*of_site, *doctor_here.folder_findings(root)]
    doctor_here.show(found, as_json=as_json)
    if write is not None:
        if site is None:
            raise UserError(f"--write {write}: no Slurm answers here to write of; cluster=local needs no profile")
        doctor_profile.write_profile(site, write)
        if not as_json:
            where = f"--config-dir {write.absolute().parent.parent} cluster={write.stem}"
            print(f"\nwritten: {write}; use it with {where}")  # noqa: T201
    if site is None or any(finding.bad for finding in found):
        raise SystemExit(1)


def _show_status(
    file: Path, changes: list[str], root: Path, config_dir: Path | None, *,
    watch: bool, by: tuple[str, ...], cells: bool, as_json: bool,
) -> None:  # fmt: skip
    from launch.sweep.show import screen
    from launch.sweep.show.current import current_plan
    from launch.sweep.show.status import exit_status

    if watch and (cells or as_json):
        raise UserError(f"--watch shows a table; take {'--json' if as_json else '--cells'} out")
    if watch:
        found = screen.watch(lambda known: current_plan(file, changes, root, config_dir, known), by=by)
    else:
        gc.disable()  # a plan's thousands of objects all stay; looking for garbage among them takes a fifth of the time
        try:
            found = screen.show(current_plan(file, changes, root, config_dir), by=by, cells=cells, as_json=as_json)
        finally:
            gc.enable()
    if status := exit_status(found):
        raise SystemExit(status)


def _cancel(file: Path, root: Path) -> None:
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


def _board(file: Path, changes: list[str], root: Path, config_dir: Path | None) -> None:
    from launch.sweep.show.board import write_board
    from launch.sweep.show.current import current_plan

    current = current_plan(file, changes, root, config_dir)
    for line in current.changes:
        print(line, file=sys.stderr)  # noqa: T201
    board, runs = write_board(current.plan, root)
    print(f"{runs} runs; tensorboard --logdir {shlex.quote(str(board))}")  # noqa: T201


def _clean(root: Path, days: float, *, yes: bool, as_json: bool) -> None:
    from launch.sweep.clean import clean
    from launch.sweep.show.cleaned import show_cleaned

    show_cleaned(clean(root, days=days, remove=yes), days=days, removed=yes, as_json=as_json)


def _report(
    file: Path, changes: list[str], root: Path, config_dir: Path | None, tables: list[str], kind: str,
    out: Path | None, compare: Path | None,
) -> None:  # fmt: skip
    from launch.sweep.show.current import current_plan
    from launch.sweep.show.report import Other, complete, report

    current = current_plan(file, changes, root, config_dir)
    plan = current.plan
    for line in current.changes:
        print(line, file=sys.stderr)  # noqa: T201
    other = None
    if compare is not None and compare.is_dir():
        other = Other(current_plan(file, changes, compare, config_dir).plan, compare, f"{plan.name} in {compare}")
    elif compare is not None:
        second = current_plan(compare, [], root, config_dir).plan
        other = Other(second, root, second.name)
    print(report(plan, root, tables, kind, out, file, other), end="")  # noqa: T201
    if not complete(plan, root):
        raise SystemExit(1)
