"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rnet.storage.files import share_files


def _open_store(root: Path) -> Path:
    share_files(root)
    return root


Root = Annotated[
    Path,
    typer.Option("--root", metavar="DIR", help="The store: where results are kept and found.", callback=_open_store),
]
DEFAULT_ROOT = Path("runs")
