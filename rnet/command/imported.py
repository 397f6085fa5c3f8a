"""What an import says: what the victim is and who said so, and whether the user's own images bear it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show_origin(title: str, about: Mapping[str, Any], console: Console) -> None:
    """A table of what an imported model was taken for, and who said so; then what was noted."""
    from rnet.models.origin import ORDER  # imports torch
    from rnet.training.import_report import shown_value

    table = Table(title=escape(title), title_justify="left")
    for name in ("what", "value", "how", "from"):
        table.add_column(name, overflow="fold")
    for name in ORDER:
        if fact := about.get(name):
            table.add_row(name, *(escape(text) for text in (shown_value(fact["value"]), fact["how"], fact["from"])))
    console.print(table)
    for note in about["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)


def show_check(result: Mapping[str, Any], folder: str, console: Console) -> None:
    """A table of how an imported victim does on the user's images, and what speaks against the import."""
    check = result["check"]
    table = Table(title="Check on your own images", title_justify="left", show_header=False)
    table.add_row("accuracy", f"{_percent(result['accuracy'])} of {check['images']} test images")
    if reference := check.get("reference"):
        table.add_row("reference", f"{_percent(reference['accuracy'])}: {escape(reference['by'])}")
    for row in check.get("per_class", []):
        name = escape(f"class {row['class']}")
        table.add_row(name, f"{_percent(row['recall'])} of {row['images']} images")
    for kind, lines in (("warning", check["warnings"]), ("note", check["notes"])):
        for line in lines:
            table.add_row(kind, escape(line))
    if not check["warnings"]:
        table.add_row("verdict", "nothing speaks against this import")
    table.add_row("folder", escape(folder))
    console.print(table)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
