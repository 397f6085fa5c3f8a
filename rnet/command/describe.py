"""`list` and `explain`: what can be chosen, and what every key means."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from rnet.command.run import Options, console, show_json
from rnet.errors import unknown_name

KINDS = {f"{group}s": group for group in ("attack", "defense", "dataset", "substitute", "model", "engine")}


def show_list(kind: str, options: Options) -> None:
    """A table of names, or {"group", "options": [{"name", "summary", "origin"}, ...]}; of defences also "profiles"."""
    from rnet.config.explain import list_options

    if kind not in KINDS:
        raise unknown_name("list", kind, KINDS)
    group = KINDS[kind]
    rows = list_options(group, options.config_dir)
    if options.as_json:
        show_json({"group": group, "options": rows})
        return
    table = Table(title=f"{group}=", title_justify="left")
    columns = {"name": "name", "summary": "what", "profiles": "profiles", "origin": "from"}
    shown = [key for key in columns if key in rows[0]]
    for key in shown:
        table.add_column(columns[key], overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[key]) for key in shown))
    console().print(table)
    print(f"One of your own: {group}=package.module:Name. Its keys: rnet explain {group}=NAME")  # noqa: T201


def show_keys(wanted: Sequence[str], options: Options) -> None:
    """A table of keys, or {"keys": [{"key", "type", "value", "meaning"}, ...]}."""
    from rnet.config.explain import explain

    rows = explain(wanted, options.config_dir)
    if options.as_json:
        show_json({"keys": rows})
        return
    table = Table()
    for name in ("key", "type", "value", "meaning"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(text) for text in (row["key"], row["type"], _written(row["value"]), row["meaning"])))
    console().print(table)


def _written(value: object) -> str:
    """A value as an override would write it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
