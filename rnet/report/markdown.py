"""A table as GitHub's Markdown: a heading, the table, its notes."""

from __future__ import annotations

import re

from rnet.report.cells import Cell, is_right, lines_of, one_line, shown_columns, title_of
from rnet.report.table import Table

_SPECIAL = re.compile(r"([\\`*|<\[\]])")


def markdown(table: Table) -> str:
    """Heading, table and notes."""
    columns = shown_columns(table)
    heading = f"## {table.title}\n\n"
    if not table.lines:
        return f"{heading}Nothing to show.\n"
    rows = [
        [escaped(title_of(column)) for column in columns],
        ["---:" if is_right(column) else "---" for column in columns],
        *([_text(cell) for cell in line] for line in lines_of(table)),
    ]
    body = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    notes = "".join(f"- {escaped(note)}\n" for note in table.notes)
    return f"{heading}{body}\n{notes}"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", one_line(text))


def _text(cell: Cell) -> str:
    text = escaped(cell.text)
    if cell.spread:
        text += f" \u00b1 {cell.spread}"
    inside = [f"{cell.interval[0]} to {cell.interval[1]}"] if cell.interval else []
    inside += [cell.seeds] if cell.seeds else []
    return f"{text} ({', '.join(inside)})" if inside else text
