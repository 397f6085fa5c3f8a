"""`rnet sweep report`: the tables of a sweep, as text or as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.sweep.plan.plan import Plan, done_cells
from launch.sweep.show.study import study_of
from rnet.report.formats import check_format, text_of, write_tables
from rnet.report.tables import asked_for, make_tables


def report(plan: Plan, root: Path, names: Sequence[str], kind: str, out: Path | None) -> str:
    """The tables as text; with a folder out they are written there, and the text says so.

    Raises UserError for unknown names and formats, and a format that is no text without a folder.
    """
    names = asked_for(names, kind, out)
    check_format(kind, names, out)
    tables = make_tables(study_of(plan, root), names)
    if out is None:
        return text_of(tables, kind)
    return "".join(f"{path}\n" for path in write_tables(tables, kind, out))


def complete(plan: Plan, root: Path) -> bool:
    """Whether every row has its scores and every one of its negatives."""
    return len(done_cells(plan, root)) == len(plan.cells)
