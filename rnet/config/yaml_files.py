"""YAML as people mean it: text stays text, numbers are those of YAML 1.2, and every value knows where it stands.

Scalars are kept as they are written until the type of their setting is known (values.py): `folder: 007` is a folder's
name, `seed: 007` the number 7.
"""

from __future__ import annotations

import codecs
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rnet.errors import UserError

_STANDARD = "tag:yaml.org,2002:"
_TAGS = {
    *(f"{_STANDARD}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")),
    *(f"{_STANDARD}{name}" for name in ("merge", "value")),
}
_NULL = ("", "~", "null", "Null", "NULL")


class Word(str):
    """A scalar as it is written. place: "file.yaml, line 3, column 8". plain: not in quotes."""

    place: str
    plain: bool

    def __new__(cls, text: str, place: str, *, plain: bool = True) -> Word:
        word = super().__new__(cls, text)
        word.place, word.plain = place, plain
        return word

    @property
    def absent(self) -> bool:
        """Whether it says that there is no value: null, ~ or nothing, not in quotes."""
        return self.plain and self in _NULL


class Table(dict[str, Any]):
    """A mapping from words to words, lists and mappings; place as in Word."""

    place = ""


class Items(list[Any]):
    """A list of words, lists and mappings; place as in Word."""

    place = ""


def place_of(value: object) -> str:
    """Where a value stands, for the beginning of a message: "file.yaml, line 3, column 8: "; nothing where unknown."""
    place = getattr(value, "place", "")
    return f"{place}: " if place else ""


def raw(value: Any) -> Any:
    """Words as bare text, null as None: to be kept as JSON."""
    if isinstance(value, dict):
        return {str(key): raw(item) for key, item in value.items()}
    if isinstance(value, list):
        return [raw(item) for item in value]
    return (None if value.absent else str(value)) if isinstance(value, Word) else value


def read_mapping(path: Path) -> Table:
    """The mapping in a YAML file; an empty file is an empty one. To be read only: it is shared.

    Raises UserError, with file, line and column, for what cannot be read, is no YAML or no mapping, and for keys that
    stand there twice.
    """
    try:
        about = path.stat()
        if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):  # a pipe would be waited for
            raise UserError(f"{path} is no regular file; name a YAML file")
        return _read(path, about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a YAML file") from None


@lru_cache(maxsize=1024)
def _read(path: Path, size: int, mtime_ns: int) -> Table:
    found = parse_yaml(_decoded(path), str(path))
    if not isinstance(found, Table):
        raise UserError(f"{place_of(found)}expected settings, `key: value`, not {_what(found)}")
    return found


def parse_yaml(text: str, source: str) -> Word | Items | Table:
    """What a YAML text says; nothing is an empty mapping. source: what errors call it. Raises UserError."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        return Table() if node is None else _converted(node, source, {})
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        what = f"the character U+{int(str(error.character)):04X} cannot stand in YAML"
        raise UserError(f"{source}, line {line}, column {column}: {what}; take it out") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
        words = " ".join(f"{error.problem or error.context}".split())
        raise UserError(f"{_place(source, mark)}: no YAML: {words}{hint}") from None
    except RecursionError:
        raise UserError(f"{source} is nested too deeply; settings need few levels") from None


def _place(source: str, mark: Any) -> str:
    return source if mark is None else f"{source}, line {mark.line + 1}, column {mark.column + 1}"


def _converted(node: Any, source: str, done: dict[int, Any]) -> Any:
    """The node's content. done: by node, so that what aliases share is converted once; None while it is under way."""
    place = _place(source, node.start_mark)
    if id(node) in done:
        if done[id(node)] is None:
            raise UserError(f"{place}: an alias stands inside of what it names; write the value out")
        return done[id(node)]
    if node.tag not in _TAGS:
        raise UserError(f"{place}: the tag {node.tag.removeprefix(_STANDARD)!r} is not read; write plain YAML")
    done[id(node)] = None
    found: Any
    if isinstance(node, yaml.ScalarNode):
        found = Word(node.value, place, plain=node.style is None)
    elif isinstance(node, yaml.SequenceNode):
        found = Items(_converted(item, source, done) for item in node.value)
        found.place = place
    else:
        found = _table(node, place, lambda inner: _converted(inner, source, done))
    done[id(node)] = found
    return found


def _table(node: Any, place: str, convert: Callable[[Any], Any]) -> Table:
    found, merged = Table(), Table()
    for key_node, value_node in node.value:
        key = convert(key_node)
        if not isinstance(key, Word):
            raise UserError(f"{place_of(key)}a key must be a word, not {_what(key)}")
        value = convert(value_node)
        if key == "<<" and key.plain:
            for base in value if isinstance(value, Items) else [value]:
                if not isinstance(base, Table):
                    raise UserError(f"{key.place}: << takes in mappings, not {_what(base)}")
                merged.update({name: item for name, item in base.items() if name not in merged})
        elif key in found:
            raise UserError(f"{key.place}: the key {str(key)!r} stands there twice; take one out")
        else:
            found[key] = value
    found = Table({**merged, **found})
    found.place = place
    return found


def _what(value: object) -> str:
    return "a list" if isinstance(value, Items) else "a mapping" if isinstance(value, Table) else f"{str(value)[:60]!r}"


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise UserError(
            f"{path}, line {line}, column {column}: the byte {data[error.start]:#04x} is no UTF-8; save the file as "
            f"UTF-8"
        ) from None
