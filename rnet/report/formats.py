"""Tables as text and files: Markdown and LaTeX for people, CSV, JSON and Parquet for programs. The same bytes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rnet.errors import UserError, unknown_name
from rnet.report.latex import latex
from rnet.report.markdown import markdown
from rnet.report.statistics import Summary
from rnet.report.table import Column, Table
from rnet.storage.files import make_folder, write_atomic

SUFFIXES = {"markdown": "md", "csv": "csv", "json": "json", "parquet": "parquet", "latex": "tex"}
"""Every format of tables and how its files end."""
PAGE = "html"
"""The format that is one page with figures and all tables."""
_SUMMARY = ("mean", "spread", "low", "high", "seeds")


def check_format(kind: str, tables: Sequence[str], out: Path | None) -> None:
    """Raises UserError for a format that is unknown or not installed, or cannot hold these tables."""
    if kind not in (*SUFFIXES, PAGE):
        raise unknown_name("--format", kind, (*SUFFIXES, PAGE))
    if kind == "parquet":
        _pyarrow()
    if out is not None:
        if out.exists() and not out.is_dir():
            raise UserError(f"--out={str(out)!r} is a file; name a folder, which gets a file for each table")
        return
    if kind == "parquet":
        raise UserError("--format=parquet is no text; name a folder for the files with --out")
    if kind == "csv" and len(tables) != 1:
        raise UserError("--format=csv shows one table; name it with --table, or a folder for all of them with --out")


def text_of(tables: Sequence[Table], kind: str) -> str:
    """The tables in one text. JSON: {table: [a line as {column: value}]}."""
    if kind == "json":
        return json.dumps({table.name: flat(table) for table in tables}, indent=2, allow_nan=False) + "\n"
    shown: Mapping[str, Callable[[Table], str]] = {"markdown": markdown, "latex": latex, "csv": _csv}
    return "\n".join(shown[kind](table) for table in tables)


def write_tables(tables: Sequence[Table], kind: str, folder: Path) -> list[Path]:
    """Writes FOLDER/<table>.<suffix> for each; returns the paths."""
    make_folder(folder)
    written = []
    for table in tables:
        path = folder / f"{table.name}.{SUFFIXES[kind]}"
        write_atomic(path, _parquet(table) if kind == "parquet" else text_of([table], kind).encode())
        written.append(path)
    return written


def flat(table: Table) -> list[dict[str, Any]]:
    """The lines with one plain value a column: a mean's spread, interval and seeds in columns beside it.

    accuracy becomes accuracy_mean, accuracy_spread, accuracy_low, accuracy_high and accuracy_seeds. Numbers stay
    numbers, in base units (shares, seconds, bytes, FLOPs); what is missing or not finite is None.
    """
    return [
        {name: value for column in table.columns for name, value in _plain(column, line.get(column.name)).items()}
        for line in table.lines
    ]


def _plain(column: Column, value: Any) -> dict[str, Any]:
    if column.kind == "summary":
        values = asdict(value) if isinstance(value, Summary) else {}
        return {f"{column.name}_{name}": _finite(values.get(name)) for name in _SUMMARY}
    if value is None:
        return {column.name: None}
    typed = {"count": int, "number": float, "text": str}[column.kind]
    return {column.name: _finite(typed(value))}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(table: Table) -> str:
    text = io.StringIO()
    names = [name for column in table.columns for name in _plain(column, None)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat(table))
    return text.getvalue()


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and its parquet. Raises UserError where it is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "--format=parquet needs pyarrow, which is not installed; run: pip install 'rnet[parquet]' (or pip install "
            "pyarrow), or take --format=csv"
        ) from None
    return pyarrow, parquet


def _parquet(table: Table) -> bytes:
    pyarrow, parquet = _pyarrow()
    kinds = {"text": pyarrow.string(), "count": pyarrow.int64(), "number": pyarrow.float64()}
    fields = []
    for column in table.columns:
        for name in _plain(column, None):
            kind = kinds["number"] if column.kind == "summary" else kinds[column.kind]
            fields.append((name, pyarrow.int64() if name == f"{column.name}_seeds" else kind))
    made = pyarrow.Table.from_pylist(flat(table), schema=pyarrow.schema(fields))
    sink = io.BytesIO()
    parquet.write_table(made, sink)
    return sink.getvalue()
