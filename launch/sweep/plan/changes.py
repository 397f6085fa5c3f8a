"""What the command line sets differently in a sweep file: cluster=local axes.seed=[0,1] resources.train.gpus=1."""

from __future__ import annotations

from collections.abc import Sequence

from rnet.config.yaml_files import Table, Word, parse_yaml
from rnet.errors import UserError

MOST_CHANGES = 1000


def changed(document: Table, changes: Sequence[str]) -> Table:
    """The document with what the command line sets: words as they stand, and [lists] and {mappings} as in YAML."""
    if len(changes) > MOST_CHANGES:
        raise UserError(f"{len(changes):,} changes on the command line; write them into the file")
    if not changes:
        return document
    document = _copied(document)
    for line in changes:
        key, equals, text = line.partition("=")
        if not equals:
            raise UserError(f"{line!r} has no '='; write it as key=value, e.g. cluster=local")
        *folders, last = key.split(".", 1) if key.startswith(("axes.", "resources.")) else [key]
        node = document
        for name in folders:
            node = _inner(node, name)
        if folders == ["resources"] and "." in last:
            stage, _, last = last.partition(".")
            node = _inner(node, stage)
        if key == "seeds" and isinstance(document.get("axes"), Table):
            document["axes"].pop("seed", None)
        if key == "axes.seed":
            document.pop("seeds", None)
        where = f"on the command line, {key}"
        node[last] = parse_yaml(text, where) if text[:1] in ("[", "{") else Word(text, where)
    return document


def _inner(node: Table, name: str) -> Table:
    """The mapping under a name, made where there is none."""
    if not isinstance(node.get(name), Table):
        node[name] = Table()
    found: Table = node[name]
    return found


def _copied(table: Table) -> Table:
    """A mapping that may be changed, down to its last mapping."""
    copy = Table({key: _copied(value) if isinstance(value, Table) else value for key, value in table.items()})
    copy.place = table.place
    return copy
