"""What a table is before anyone chooses its format: columns that know their unit, lines of plain values, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "count", "number", "summary"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. kind: text; count (whole numbers); number; summary (a Summary, whose numbers stand side by side).

    title: what people read, with the unit: "accuracy (%)". scale: what the value is multiplied with for them.
    decimals: how many they see; None for four significant digits. files and programs get the value itself, in its
    base unit. exact: a count, shown without a spread of 0. none: what people read where a line says that there is
    no value. optional: not shown to people where no line has it.
    """

    name: str
    kind: Kind = "text"
    title: str = ""
    scale: float = 1.0
    decimals: int | None = None
    exact: bool = False
    none: str = ""
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. notes: sentences without which its numbers cannot be read. lines: a value or None for each column."""

    name: str
    title: str
    columns: Sequence[Column]
    lines: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()


def axis_columns(keys: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of the axes of a table's lines: seeds are whole numbers, and so is what is so in every line."""
    names = dict.fromkeys(name for key in keys for name in key)
    return [
        Column(name=name, kind="count" if all(isinstance(key.get(name), int | None) for key in keys) else "text")
        for name in names
    ]


def percent(name: str, kind: Kind = "summary", *, title: str = "", optional: bool = False) -> Column:
    """A share in [0, 1], which people read in percent."""
    return Column(
        name=name, kind=kind, title=f"{title or name.replace('_', ' ')} (%)", scale=100, decimals=1, optional=optional
    )


MISSING = Column(name="missing", optional=True)
"""What of a line is missing, and why."""
PLANNED = Column(name="planned", kind="count", title="seeds planned", optional=True)
"""How many runs a line is meant to be of."""
