"""Values as people read them: in the column's unit, rounded, and means with spread, interval and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnet.report.statistics import Summary
from rnet.report.table import Column, Table


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value as text; of a mean also spread ("" if it says nothing), interval and "n=3"."""

    text: str
    spread: str = ""
    interval: tuple[str, str] | None = None
    seeds: str = ""


def shown_columns(table: Table) -> list[Column]:
    """The columns without those that no line needs; planned is needed where a mean is of fewer seeds."""
    return [
        column
        for column in table.columns
        if not column.optional or any(_says_something(column, line) for line in table.lines)
    ]


def title_of(column: Column) -> str:
    """What stands above a column."""
    return column.title or column.name.replace("_", " ")


def cell_of(column: Column, value: Any) -> Cell:
    """The value of a line in a column."""
    if value is None:
        return Cell(text=column.none)
    if isinstance(value, Summary):
        return _of_summary(column, value)
    return Cell(text=number(value, column) if column.kind == "number" else str(value))


def number(value: float, column: Column, digits: int = 4) -> str:
    """A number in the column's unit."""
    value = value * column.scale
    return f"{value:.{digits}g}" if column.decimals is None else f"{value:.{column.decimals}f}"


def _of_summary(column: Column, value: Summary) -> Cell:
    mean, seeds = number(value.mean, column), f"n={value.seeds}"
    certain = column.exact and not value.spread
    if value.spread is None or value.low is None or value.high is None or certain:
        return Cell(text=mean, seeds=seeds)
    interval = (number(value.low, column), number(value.high, column))
    return Cell(text=mean, spread=number(value.spread, column, digits=2), interval=interval, seeds=seeds)


def _says_something(column: Column, line: Mapping[str, Any]) -> bool:
    if column.name == "planned":
        return bool(line.get("missing"))
    return line.get(column.name) is not None


def one_line(text: str) -> str:
    """Without line ends and other control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def is_right(column: Column) -> bool:
    """Whether a column of people's tables is aligned right: single numbers."""
    return column.kind in ("count", "number")


def lines_of(table: Table) -> list[list[Cell]]:
    """The cells of every line, of the columns that are shown."""
    columns: Sequence[Column] = shown_columns(table)
    return [
        [cell_of(column, line[column.name]) if column.name in line else Cell(text="") for column in columns]
        for line in table.lines
    ]
