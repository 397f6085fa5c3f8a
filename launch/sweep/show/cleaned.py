"""What `rnet sweep clean` prints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from launch.sweep.clean import Cleaning, Piece
from rnet.command.run import console, show_json
from rnet.command.store import between


def show_cleaned(found: Cleaning, *, days: float, removed: bool, as_json: bool) -> None:
    """The pieces by kind, with number, size and age; every one as JSON."""
    if as_json:
        show_json(_document(found, removed=removed))
        return
    if found.pieces:
        table = Table(title="what no sweep refers to", title_justify="left")
        for name in ("kind", "number", "MB", "last written", "e.g."):
            table.add_column(name, justify="right" if name in ("number", "MB") else "left")
        for kind in dict.fromkeys(piece.kind for piece in found.pieces):
            table.add_row(*_row(kind, [piece for piece in found.pieces if piece.kind == kind]))
        console().print(table)
    print(_told(found.pieces, "removed" if removed else "would be removed"))  # noqa: T201
    if found.younger:
        print(_told(found.younger, f"kept: written within {days:g} days or the last hour, or a parent of such; --days"))  # noqa: T201
    if found.busy:
        print(f"{len(found.busy)} stages that no sweep refers to are under way, e.g. {found.busy[0]}")  # noqa: T201
    if found.trouble:
        print(f"a cluster did not say what is under way, so all of it was kept: {found.trouble}")  # noqa: T201
    if found.pieces and not removed:
        print("nothing was removed; --yes removes it")  # noqa: T201


def _row(kind: str, pieces: Sequence[Piece]) -> list[str]:
    times = [piece.newest for piece in pieces if piece.newest]
    ages = between(min(times), max(times)) if times else ""
    return [kind, str(len(pieces)), f"{sum(piece.bytes for piece in pieces) / 1e6:.1f}", ages, pieces[0].label]


def _told(pieces: Sequence[Piece], what: str) -> str:
    return f"{len(pieces)} pieces, {sum(piece.bytes for piece in pieces) / 1e6:.1f} MB, {what}"


def _document(found: Cleaning, *, removed: bool) -> dict[str, Any]:
    now = time.time()

    def plain(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        return [
            {"kind": p.kind, "label": p.label, "bytes": p.bytes, "age": round(now - p.newest) if p.newest else None}
            for p in pieces
        ]

    return {
        "removed": removed, "pieces": plain(found.pieces), "younger": plain(found.younger), "busy": found.busy,
        "bytes": sum(piece.bytes for piece in found.pieces), "trouble": found.trouble,
    }  # fmt: skip
