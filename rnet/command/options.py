"""Arguments that several commands share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rnet.storage.files import share_files


def _open_store(root: Path) -> Path:
    root = root.expanduser()  # shells leave the ~ of --root=~/runs as it is
    share_files(root)
    return root


Root = Annotated[
    Path,
    typer.Option("--root", metavar="DIR", help="The store: where results are kept and found.", callback=_open_store),
]
DEFAULT_ROOT = Path("runs")
DEFAULT_OUT = Path("report")
"""The folder that a page is written to, where no other is named."""
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Show the resolved configuration and stop.")]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", metavar="DIR", help="Your own options, e.g. DIR/dataset/mine.yaml.")
]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        metavar="NAME",
        help="Only this table (several: again): fidelity, effectiveness, verdicts, efficiency, separation, negatives, "
        "thresholds or rows.",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="KIND", help="html (a page), markdown, csv, json, parquet or latex; see docs/reports.md."
    ),
]
FormatOrNone = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="KIND",
        help="A page as html, or tables as markdown, csv, json, parquet or latex: docs/reports.md.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Write a file for each table, or report.html, into this folder."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides, e.g. dataset=fashion_mnist model=resnet8 attack=removalnet attack.iterations=10 seed=3. "
        "`rnet list attacks` shows what can be chosen, `rnet explain attack=removalnet` every key.",
    ),
]


def import_from_here() -> None:
    """Makes modules in the current folder importable: plugins of one file, package.module:Name.

    `python -m` does so itself; the script `rnet` does not. What is installed goes before.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
