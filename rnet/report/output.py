"""What commands show of a study: tables as text or as files, or one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rnet.report.formats import PAGE, text_of, write_tables
from rnet.report.page import Page, html
from rnet.report.records import Study
from rnet.report.table import Table
from rnet.report.tables import make_tables
from rnet.storage.files import make_folder, write_atomic

FILE = "report.html"
"""The page's name in the folder that --out names."""


def shown(
    study: Study, names: Sequence[str], kind: str, out: Path | None, page: Callable[[Sequence[Table]], Page],
    more: Sequence[Table] = (),
) -> str:  # fmt: skip
    """The text that a command prints: the study in that format, or with a folder the paths of what it got.

    more: tables that stand before the study's own.
    """
    tables = [*more, *make_tables(study, names)]
    return write_page(page(tables), out) if kind == PAGE else shown_tables(tables, kind, out)


def shown_tables(tables: Sequence[Table], kind: str, out: Path | None) -> str:
    """The tables as one text, or with a folder the paths of the files that got them."""
    if out is None:
        return text_of(tables, kind)
    return "".join(f"{path}\n" for path in write_tables(tables, kind, out))


def write_page(page: Page, out: Path | None) -> str:
    """The page itself, or with a folder the path of the file that got it."""
    text = html(page)
    if out is None:
        return text
    make_folder(out)
    write_atomic(out / FILE, text.encode())
    return f"{out / FILE}\n"
