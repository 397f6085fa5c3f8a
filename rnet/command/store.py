"""`rnet store verify | size | gc | export | import | keygen | sign`: a store as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rnet.command.run import console, require_one_process, show_json
from rnet.durations import duration
from rnet.errors import UserError

if TYPE_CHECKING:
    from rnet.stages.keeping import Damage
    from rnet.stages.recompute import Again

Users = Callable[[Path], Mapping[str, Collection[str]]]
"""Who refers to stages of a store: their labels by name."""
Fix = Annotated[bool, typer.Option("--fix", help="Set damaged stages aside in DIR/quarantine, to be computed again.")]
Recompute = Annotated[
    bool,
    typer.Option("--recompute", help="Set damaged stages aside and compute them again, in the order of the stages."),
]
SignedBy = Annotated[
    Path | None,
    typer.Option("--signed-by", metavar="FILE.pub", help="A public key, which must have signed each stage."),
]
SigningKey = Annotated[Path, typer.Option("--key", metavar="FILE", help="Your private key: rnet store keygen FILE.")]
NewKey = Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes; the public one is FILE.pub.")]
Seal = Annotated[bool, typer.Option("--seal", help="Give a manifest to stages of older versions, which have none.")]
Unfinished = Annotated[bool, typer.Option("--unfinished", help="Also remove stages that nobody computes any more.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")]
Archive = Annotated[Path, typer.Argument(metavar="FILE.tar", help="The file to write or to read.")]
Labels = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STAGE/ID]...", help="Which stages, as attack/0123...; all if none."),
]


def verify(
    root: Path, *, fix: bool, seal: bool, recompute: bool, signed_by: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Checks every finished stage and shows the damaged ones; then, with a key, the unsigned ones.

    Raises UserError if stages are damaged and not set aside, cannot be computed again, or are not signed.
    """
    from rnet.stages.keeping import unsigned, verify_store

    if recompute:
        require_one_process("rnet store verify --recompute")
    count, damaged = verify_store(root, fix=fix or recompute, seal=seal)
    again = _computed_again(root, damaged) if recompute else []
    strangers = [] if signed_by is None else unsigned(root, signed_by)
    if as_json:
        found = {"finished": count, "damaged": [asdict(one) for one in damaged]}
        found |= {"recomputed": [asdict(one) for one in again]} if recompute else {}
        show_json(found | ({} if signed_by is None else {"unsigned": strangers}))
    else:
        print(f"{count} finished stages in {root}, {len(damaged)} of them damaged")  # noqa: T201
        lines = [line for one in damaged for line in _told(one, recompute=recompute)]
        for line in (*lines, *map(_told_again, again), *strangers):
            print(line)  # noqa: T201
    if damaged and not (fix or recompute):
        remedy = "set them aside with --fix, or compute them again with --recompute"
        raise UserError(f"{len(damaged)} of {count} stages in {root} are damaged; {remedy}")
    if failed := [one for one in again if one.problem]:
        raise UserError(f"{len(failed)} of {len(again)} stages were not computed again: {failed[0].problem}")
    if strangers:
        raise UserError(f"{len(strangers)} stages in {root} are not signed by {signed_by}; {strangers[0]}")


def _computed_again(root: Path, damaged: list[Damage]) -> list[Again]:
    if not damaged:
        return []
    from rnet.stages.recompute import recompute

    return recompute(root, damaged)


def _told(damage: Damage, *, recompute: bool) -> list[str]:
    after = "" if recompute else "; the next command that needs it computes it again"
    return [*damage.problems, *([] if damage.aside is None else [f"{damage.label} is now {damage.aside}{after}"])]


def _told_again(again: Again) -> str:
    if again.problem:
        return f"{again.label} was not computed again: {again.problem}"
    same = "its bytes are those of before"
    other = f"other bytes than before in {', '.join(again.changed)}; the stage of before is {again.aside}"
    return f"{again.label} was computed again: {other if again.changed else same}"


def show_size(root: Path, *, as_json: bool, users: Users | None = None) -> None:
    """What the store takes on the disk and how old it is, by stage, and by what refers to stages."""
    from rnet.stages.sizes import sizes

    found = sizes(root, users(root) if users else None)
    if as_json:
        show_json(found)
        return
    sweeps = found.pop("sweeps", {})
    console().print(_sizes(str(root), "stage", found))
    if sweeps:
        console().print(_sizes("of these, by sweep", "sweep", sweeps))


def _sizes(title: str, kind: str, rows: dict[str, dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    alone = any("alone" in row for row in rows.values())
    for name in (kind, "finished", "unfinished", "MB", *(("MB of it alone",) if alone else ()), "last written"):
        table.add_column(name, justify="left" if name == kind else "right")
    for name, row in rows.items():
        bytes_ = [f"{row[key] / 1e6:.1f}" for key in ("bytes", "alone") if key in row]
        table.add_row(
            name, str(row["finished"]), str(row["unfinished"]), *bytes_, between(row["oldest"], row["newest"])
        )
    return table


def between(oldest: float | None, newest: float | None) -> str:
    """How long ago, of the newest and of the oldest: "2 h 5 min to 3 days ago"; nothing for nothing."""
    if oldest is None or newest is None:
        return ""
    now = time.time()
    ages = [duration(max(now - moment, 0.0)) for moment in (newest, oldest)]
    return f"{' to '.join(dict.fromkeys(ages))} ago"


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


def import_(root: Path, file: Path, *, signed_by: Path | None, as_json: bool) -> None:
    """Takes the stages of a tar file into the store."""
    from rnet.stages.keeping import import_stages

    taken, known = import_stages(root, file, signed_by)
    if as_json:
        show_json({"imported": taken, "known": known})
    else:
        print(f"{len(taken)} stages were imported, {len(known)} were there already")  # noqa: T201


def make_keys(file: Path) -> None:
    """Writes a pair of keys."""
    from rnet.storage.signatures import make_keys as make

    public = make(file.expanduser())
    print(f"{file} is your private key, which only you may read; give {public} to those who check")  # noqa: T201


def sign(root: Path, labels: list[str], key: Path, *, as_json: bool) -> None:
    """Signs the manifests of finished stages."""
    from rnet.stages.keeping import sign_stages

    signed = sign_stages(root, labels, key)
    show_json({"signed": signed}) if as_json else print(f"{len(signed)} stages in {root} are signed")  # noqa: T201
