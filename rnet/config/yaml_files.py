"""YAML as people mean it: text stays text, numbers are those of YAML 1.2, and every value knows where it stands.

Scalars are kept as they are written until the type of their setting is known (values.py): `folder: 007` is a folder's
name, `seed: 007` the number 7.
"""

from __future__ import annotations

import codecs
import stat
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

MOST_BYTES = 2**20
MOST_VALUES = 50_000
"""Words, lists and mappings of one text, with what aliases and << stand for written out."""
DEEPEST = 32
"""How many lists and mappings may be inside of one another."""


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

    Raises UserError, with file, line and column, for what cannot be read, is no YAML or no mapping, is larger than any
    settings, and for keys that stand there twice.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a YAML file") from None
    except ValueError as error:  # a zero byte
        raise UserError(f"{str(path)!r} cannot be read: {error}; name a YAML file") from None
    return _read(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1024)
def _read(path: Path, size: int, mtime_ns: int) -> Table:
    found = parse_yaml(read_text(path), str(path))
    if not isinstance(found, Table):
        raise UserError(f"{place_of(found)}expected settings, `key: value`, not {_what(found)}")
    return found


def parse_yaml(text: str, source: str) -> Word | Items | Table:
    """What a YAML text says; nothing is an empty mapping. source: what errors call it. Raises UserError."""
    if len(text) > MOST_BYTES:
        raise UserError(f"{source} has {len(text)} characters, more than the {MOST_BYTES} of any settings; shorten it")
    try:
        loader = BoundedLoader(text, source)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        return Table() if node is None else _Conversion(source).converted(node)
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


class BoundedLoader(yaml.SafeLoader):
    """Ends as soon as a text has too many values or is nested too deeply, so that no text takes long."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self._source, self._count, self._depth = source, 0, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One value, with those inside of it."""
        self._count += 1
        self._depth += 1
        if self._depth > DEEPEST or self._count > MOST_VALUES:
            place = _place(self._source, self.peek_event().start_mark)
            if self._depth > DEEPEST:
                raise UserError(f"{place}: nested more than {DEEPEST} levels deep; settings need few")
            raise _too_many(place)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _too_many(place: str) -> UserError:
    return UserError(f"{place}: more than {MOST_VALUES} values, with aliases written out; no settings have so many")


def _place(source: str, mark: Any) -> str:
    return source if mark is None else f"{source}, line {mark.line + 1}, column {mark.column + 1}"


class _Conversion:
    """From nodes to words, lists and mappings. What aliases share is converted once, and counted every time."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._done: dict[int, tuple[Any, int]] = {}
        self._count = 0

    def converted(self, node: Any) -> Any:
        """The node's content. Raises UserError."""
        place = _place(self._source, node.start_mark)
        if id(node) in self._done:
            known, size = self._done[id(node)]
            if not size:
                raise UserError(f"{place}: an alias stands inside of what it names; write the value out")
            self._add(size, place)
            return known
        if node.tag not in _TAGS:
            raise UserError(f"{place}: the tag {node.tag.removeprefix(_STANDARD)!r} is not read; write plain YAML")
        before, self._done[id(node)] = self._count, (None, 0)
        self._add(1, place)
        found: Any
        if isinstance(node, yaml.ScalarNode):
            found = Word(node.value, place, plain=node.style is None)
        elif isinstance(node, yaml.SequenceNode):
            found = Items(self.converted(item) for item in node.value)
            found.place = place
        else:
            found = self._table(node, place)
        self._done[id(node)] = found, self._count - before
        return found

    def _add(self, size: int, place: str) -> None:
        self._count += size
        if self._count > MOST_VALUES:
            raise _too_many(place)

    def _table(self, node: Any, place: str) -> Table:
        found, merged = Table(), Table()
        for key_node, value_node in node.value:
            key = self.converted(key_node)
            if not isinstance(key, Word):
                raise UserError(f"{place_of(key)}a key must be a word, not {_what(key)}")
            value = self.converted(value_node)
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


def read_text(path: Path) -> str:
    """The text of a YAML file. Raises UserError for what cannot be read, is no file, is too large or no UTF-8."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path} is no file but a folder, a pipe or a device; name a YAML file")
        if about.st_size > MOST_BYTES:
            raise UserError(
                f"{path} has {about.st_size} bytes, more than the {MOST_BYTES} of any settings; name a YAML file"
            )
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a YAML file") from None
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
