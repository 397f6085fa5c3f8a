"""Tables in text files, as published data sets have them: with or without a byte order mark, any line ends, blanks."""

from __future__ import annotations

import csv
import errno
import stat
from collections.abc import Sequence
from pathlib import Path

from rnet.data.files.names import shown, some

_LARGEST = 2**28
"""Bytes; the largest published one has 27 million."""


def read_table(path: Path, *columns: str, delimiter: str | None = None) -> list[tuple[str, ...]]:
    """The cells of the named columns, a tuple per line; the first line names the columns.

    delimiter: None for a tab where the first line has one, else a comma. Raises OSError for a file that cannot be read
    or lacks a column.
    """
    header, *body = read_rows(path, delimiter=delimiter) or [[]]
    if absent := [name for name in columns if name not in header]:
        raise FileNotFoundError(
            f"{shown(path.name)} is no table of {', '.join(columns)}: its first line has no {some(absent)}"
        )
    places = [header.index(name) for name in columns]
    for number, row in enumerate(body, 2):
        if len(row) <= max(places):
            raise FileNotFoundError(
                f"{shown(path.name)} is no table of {', '.join(columns)}: row {number} has {len(row)} columns"
            )
    return [tuple(row[place] for place in places) for row in body]


def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a table. Raises OSError for what cannot be read, is a pipe or a device, or is larger than any."""
    about = path.stat()
    if stat.S_ISREG(about.st_mode) and about.st_size > _LARGEST:
        raise OSError(errno.EFBIG, f"it has {about.st_size} bytes, more than any table")
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device")
    return path.read_text(encoding="utf-8-sig", errors=errors)


def read_rows(path: Path, *, delimiter: str | None = None) -> list[list[str]]:
    """All lines that are not empty, as cells without the blanks around them. Raises OSError."""
    text = read_text(path, errors="surrogateescape")
    lines = [line for line in text.splitlines() if line.strip()]
    sign = delimiter or ("\t" if lines and "\t" in lines[0] else ",")
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=sign, skipinitialspace=True)]
    except csv.Error as error:
        raise FileNotFoundError(f"{shown(path.name)} is no table: {error}") from None


def whole_numbers(path: Path, cells: Sequence[str]) -> list[int]:
    """The cells as numbers. Raises FileNotFoundError that names the first that is none."""
    try:
        return [int(cell) for cell in cells]
    except ValueError as error:
        raise FileNotFoundError(f"{shown(path.name)} has a cell that is no whole number ({error})") from None
