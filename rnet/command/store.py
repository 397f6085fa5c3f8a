"""`rnet store verify | size | gc | export | import`: a store as a whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rnet.command.run import console, show_json
from rnet.errors import UserError

Fix = Annotated[bool, typer.Option("--fix", help="Set damaged stages aside in DIR/quarantine, to be computed again.")]
Seal = Annotated[bool, typer.Option("--seal", help="Give a manifest to stages of older versions, which have none.")]
Unfinished = Annotated[bool, typer.Option("--unfinished", help="Also remove stages that nobody computes any more.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")]
Archive = Annotated[Path, typer.Argument(metavar="FILE.tar", help="The file to write or to read.")]
Labels = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STAGE/ID]...", help="Which stages, as attack/0123...; all if none."),
]


def verify(root: Path, *, fix: bool, seal: bool, as_json: bool) -> None:
    """Checks every finished stage and shows the damaged ones. Raises UserError if some are, and are not set aside."""
    from rnet.stages.keeping import verify_store

    count, damaged = verify_store(root, fix=fix, seal=seal)
    if as_json:
        show_json({"finished": count, "damaged": [asdict(found) for found in damaged]})
    else:
        print(f"{count} finished stages in {root}, {len(damaged)} of them damaged")  # noqa: T201
        for found in damaged:
            print("\n".join(found.problems))  # noqa: T201
            if found.aside is not None:
                print(f"{found.label} is now {found.aside}; the next command that needs it computes it again")  # noqa: T201
    if damaged and not fix:
        raise UserError(f"{len(damaged)} of {count} stages in {root} are damaged; set them aside with --fix")


def show_size(root: Path, *, as_json: bool) -> None:
    """What the store takes on the disk, by stage."""
    from rnet.stages.keeping import sizes

    found = sizes(root)
    if as_json:
        show_json(found)
        return
    table = Table(title=f"{root}", title_justify="left")
    for name in ("stage", "finished", "unfinished", "MB"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, row in found.items():
        table.add_row(stage, str(row["finished"]), str(row["unfinished"]), f"{row['bytes'] / 1e6:.1f}")
    console().print(table)


def collect(root: Path, *, unfinished: bool, dry: bool, as_json: bool) -> None:
    """Removes what nobody needs, and says what."""
    from rnet.stages.keeping import clear

    gone, size = clear(root, unfinished=unfinished, dry=dry)
    if as_json:
        show_json({"removed": gone, "bytes": size, "dry_run": dry})
        return
    for name in gone:
        print(name)  # noqa: T201
    print(f"{len(gone)} files and folders, {size / 1e6:.1f} MB, {'would be ' if dry else ''}removed")  # noqa: T201


def export(root: Path, file: Path, labels: list[str], *, as_json: bool) -> None:
    """Writes finished stages to a tar file."""
    from rnet.stages.keeping import export as write

    written = write(root, file, labels)
    show_json({"exported": written}) if as_json else print(f"{len(written)} stages are in {file}")  # noqa: T201


def import_(root: Path, file: Path, *, as_json: bool) -> None:
    """Takes the stages of a tar file into the store."""
    from rnet.stages.keeping import import_stages

    taken, known = import_stages(root, file)
    if as_json:
        show_json({"imported": taken, "known": known})
    else:
        print(f"{len(taken)} stages were imported, {len(known)} were there already")  # noqa: T201
