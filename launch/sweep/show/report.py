"""`rnet sweep report`: the tables of a sweep as text or as files, or its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.sweep.plan.plan import Plan, done_cells
from launch.sweep.show.study import study_of
from rnet.report.formats import check_format
from rnet.report.output import shown
from rnet.report.page import Page
from rnet.report.study_page import page_of
from rnet.report.table import Table
from rnet.report.tables import asked_for


def report(plan: Plan, root: Path, names: Sequence[str], kind: str, out: Path | None, file: Path) -> str:
    """The tables, or the page, as text; with a folder out they are written there, and the text says so.

    file: of the sweep, for the page's block on how to reproduce it.

    Raises UserError for unknown names and formats, and a format that is no text without a folder.
    """
    names = asked_for(names, kind, out)
    check_format(kind, names, out)
    study = study_of(plan, root)

    def page(tables: Sequence[Table]) -> Page:
        commands = f"rnet sweep submit {file}\nrnet sweep report {file} --format html"
        return page_of(
            study, tables, root, title=plan.name, kind="rnet report of a sweep", commands=commands,
            more=[("The sweep's file", file.read_text())],
        )  # fmt: skip

    return shown(study, names, kind, out, page)


def complete(plan: Plan, root: Path) -> bool:
    """Whether every row has its scores and every one of its negatives."""
    return len(done_cells(plan, root)) == len(plan.cells)
