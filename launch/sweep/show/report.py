"""`rnet sweep report`: the tables of a sweep as text or as files, or its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.sweep.plan.plan import Plan, done_cells
from launch.sweep.show.study import study_of
from rnet.report.comparison import comparison
from rnet.report.formats import check_format, text_of
from rnet.report.output import shown
from rnet.report.page import Page
from rnet.report.study_page import page_of
from rnet.report.table import Table
from rnet.report.tables import asked_for


@dataclass(frozen=True)
class Other:
    """A sweep to compare another with: its plan, its store, and what it is called."""

    plan: Plan
    root: Path
    name: str


def report(
    plan: Plan, root: Path, names: Sequence[str], kind: str, out: Path | None, file: Path, other: Other | None = None
) -> str:  # fmt: skip
    """The tables, or the page, as text; with a folder out they are written there, and the text says so.

    file: of the sweep, for the page's block on how to reproduce it. other: a sweep to compare it with.

    Raises UserError for unknown names and formats, and a format that is no text without a folder.
    """
    names = asked_for(names, kind, out)
    check_format(kind, names, out)
    study = study_of(plan, root)
    more = [comparison(study, study_of(other.plan, other.root), (plan.name, other.name))] if other else []

    def page(tables: Sequence[Table]) -> Page:
        commands = f"rnet sweep submit {file}\nrnet sweep report {file} --format html"
        return page_of(
            study, tables, root, title=plan.name, kind="rnet report of a sweep", commands=commands,
            more=[("The sweep's file", file.read_text())],
        )  # fmt: skip

    if more and kind == "csv" and out is None:
        return text_of(more, kind)  # the screen shows one table
    return shown(study, names, kind, out, page, more)


def complete(plan: Plan, root: Path) -> bool:
    """Whether every row has its scores and every one of its negatives."""
    return len(done_cells(plan, root)) == len(plan.cells)
