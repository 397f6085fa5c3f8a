"""One self-contained HTML page: the verdict in a sentence, figures with their data, tables, and how to reproduce it.

The page needs no network and no script: sorting, filtering and saving as CSV are added by the script in page.html to
tables that are whole without it. Everything that users or data sets named is escaped by the template.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from rnet.figures.drawing import Drawing
from rnet.report.cells import Cell, cell_of, is_right, one_line, shown_columns, title_of
from rnet.report.svg import inline_svg
from rnet.report.table import Column, Table

OPEN_LINES = 40
"""Tables of more lines are closed until the reader opens them."""


LONG = 44
"""Characters above which a cell may break over lines."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of a page: figures and tables under one heading. about: a sentence or two below it."""

    title: str
    about: str = ""
    figures: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page says, from the top down.

    kind: what is reported, above the title. verdict: the one sentence. lead: for newcomers. facts: (name, value) in
    boxes. first: figures of the first screen. matrix: (heads, rows of (text, class)). reproduce: (name, text), as code.
    """

    title: str
    kind: str
    verdict: str
    lead: str = ""
    facts: Sequence[tuple[str, str]] = ()
    first: Sequence[Drawing] = ()
    matrix: tuple[Sequence[str], Sequence[Sequence[tuple[str, str]]]] | None = None
    sections: Sequence[Section] = ()
    reproduce: Sequence[tuple[str, str]] = ()
    incomplete: Sequence[str] = field(default_factory=tuple)


def html(page: Page) -> str:
    """The page as HTML."""
    return _template().render(page=page, figure=_figure, table=_table, slug=_slug)


@cache
def _template() -> Template:
    folder = Path(__file__).parent
    made = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return made.get_template("page.html")


def _figure(drawn: Drawing) -> dict[str, Any]:
    names = list(dict.fromkeys(name for line in drawn.lines for name in line))
    return {
        "name": drawn.name, "title": drawn.title, "caption": drawn.caption, "svg": Markup(inline_svg(drawn)),
        "gaps": len(drawn.gaps), "count": len(drawn.lines), "heads": [name.replace("_", " ") for name in names],
        "lines": [[_plain(line.get(name)) for name in names] for line in drawn.lines],
    }  # fmt: skip


def _plain(value: Any) -> tuple[str, str]:
    """A value of a figure's data as text, and its class."""
    if value is None:
        return "", ""
    if isinstance(value, float):
        return (f"{value:.6g}", "n") if math.isfinite(value) else (f"not finite: {value}", "bad")
    said = one_line(str(value))
    return said, "n" if isinstance(value, int) else "w" if len(said) > LONG else ""


def _table(table: Table) -> dict[str, Any]:
    columns = shown_columns(table)
    return {
        "name": table.name, "title": table.title, "notes": table.notes, "count": len(table.lines),
        "open": len(table.lines) <= OPEN_LINES, "heads": [(title_of(c), "n" if is_right(c) else "") for c in columns],
        "lines": [[_cell(column, line) for column in columns] for line in table.lines],
    }  # fmt: skip


def _cell(column: Column, line: Any) -> tuple[str, str]:
    """A cell as text, and its class: n of a number, bad of one that is not finite, gap where something is missing."""
    value = line.get(column.name)
    if isinstance(value, float) and not math.isfinite(value):
        return f"not finite: {value}", "bad"
    if value is None and column.name not in line:
        return "", ""
    found = cell_of(column, value)
    said = one_line(_text(found))
    if column.name in ("missing", "state") and said and said != "done":
        return said, "gap w" if len(said) > LONG else "gap"
    return said, "n" if is_right(column) else "w" if len(said) > LONG else ""


def _text(cell: Cell) -> str:
    text = f"{cell.text} \u00b1 {cell.spread}" if cell.spread else cell.text
    inside = [f"{cell.interval[0]} to {cell.interval[1]}"] if cell.interval else []
    inside += [cell.seeds] if cell.seeds else []
    return f"{text} ({', '.join(inside)})" if inside else text


def _slug(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-")
