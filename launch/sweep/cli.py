"""`rnet sweep plan | submit | run | status | retry | cancel | board | clean | report SWEEP.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.sweep import acting
from launch.sweep.acting import Given
from rnet.command.app import run
from rnet.command.options import DEFAULT_ROOT, AsJson, ConfigDir, Format, Out, Root, Tables

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
    given = Given(file, changes or [], root, config_dir)
    if against is None:
        run(lambda: acting.show_plan(given, check=check, cells=cells, as_json=as_json))
    else:
        run(lambda: acting.show_difference(given, against, listing=cells or check, as_json=as_json))


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
    run(lambda: acting.hand_out(Given(file, changes or [], root, config_dir), retry=False, wait=wait, limit=limit))


@sweep_app.command("retry")
def retry_command(
    file: File, changes: Changes = None, root: Root = DEFAULT_ROOT, config_dir: ConfigDir = None, wait: Wait = False
) -> None:
    """Submit again the cells that failed, timed out, were lost, or lacked a parent that did; nothing else."""
    run(lambda: acting.hand_out(Given(file, changes or [], root, config_dir), retry=True, wait=wait))


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
    run(lambda: acting.run_cell(Given(file, changes or [], root, config_dir), cell))


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
    given = Given(file, changes or [], root, config_dir)
    axes = tuple(axis.strip() for axis in by.split(",")) if by else ()
    run(lambda: acting.show_status(given, watch=watch, by=axes, cells=cells, as_json=as_json))


@sweep_app.command("cancel")
def cancel_command(file: File, root: Root = DEFAULT_ROOT) -> None:
    """Stop what waits and runs; results and checkpoints stay."""
    run(lambda: acting.cancel_all(file, root))


@sweep_app.command("board")
def board_command(file: File, changes: Changes = None, root: Root = DEFAULT_ROOT, config_dir: ConfigDir = None) -> None:
    """Make one TensorBoard folder of all curves, with HPARAMS that compare cells; again, it adds what is new."""
    run(lambda: acting.make_board(Given(file, changes or [], root, config_dir)))


@sweep_app.command("clean")
def clean_command(
    root: Root = DEFAULT_ROOT,
    days: Annotated[float, typer.Option("--days", metavar="N", help="Only what nobody has touched for N days.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what no sweep of the store refers to: stages, records, snapshots; remove it with --yes."""
    run(lambda: acting.clean_store(root, days, yes=yes, as_json=as_json))


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
    run(lambda: acting.show_report(Given(file, changes or [], root, config_dir), tables or [], kind, out, compare))


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
    run(lambda: acting.see_doctor(root, write, as_json=as_json))
