"""Which class a folder is: the order of the folders' names, or a file that says it."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnet.data.config import DatasetConfig
from rnet.data.files.names import nfc, shown, some
from rnet.data.files.tables import read_text
from rnet.errors import UserError, first_line


def class_indices(names: Sequence[str], config: DatasetConfig, place: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """{folder: class} and the classes' names in order, by dataset.class_map or dataset.class_order.

    names: of class folders, NFC. place: what holds them, for messages. A map may have classes without a folder.
    Raises UserError for a folder that is not in the map.
    """
    if config.class_map is not None:
        index_of = read_class_map(config.class_map)
        if unknown := sorted(set(names) - set(index_of)):
            raise UserError(
                f"{place} has the folders {some(unknown)}, which dataset.class_map={config.class_map} does not name; "
                f"it names {some(index_of)}: add the folders to it, or remove them"
            )
        return index_of, tuple(sorted(index_of, key=index_of.__getitem__))
    ordered = tuple(sorted(names, key=natural_key if config.class_order == "natural" else None))
    return {name: index for index, name in enumerate(ordered)}, ordered


def orders_differ(names: Sequence[str]) -> str | None:
    """A sentence that shows both orders of the names, None where they are the same."""
    alphabetical, natural = sorted(names), sorted(names, key=natural_key)
    first = next((i for i, pair in enumerate(zip(alphabetical, natural, strict=True)) if pair[0] != pair[1]), None)
    if first is None:
        return None
    shown_as = [some(order[: first + 2], most=first + 2) if first < 6 else f"..., {some(order[first : first + 2])}"
                for order in (alphabetical, natural)]  # fmt: skip
    return f"alphabetical as in torchvision ({shown_as[0]}, ...) and natural as in timm ({shown_as[1]}, ...)"


def natural_key(name: str) -> tuple[list[Any], str]:
    """The key by which timm sorts: numbers by value, letters without case. Equal ones by the name itself."""
    parts: list[Any] = re.split(r"(\d+)", name.lower())
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def read_class_map(path: str) -> dict[str, int]:
    """{folder: class}, NFC names, from JSON ({name: index}, {index: name} or [names]) or lines (name; name,index).

    Raises UserError for a file that cannot be read or understood, and unless the n names have the indices 0 to n - 1.
    """
    setting = f"dataset.class_map={path}"
    names = read_names(path, setting)
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise UserError(f"{setting} names {shown(twice)} twice; remove one")
    return {name: number for number, name in enumerate(names)}


def read_names(path: str, setting: str) -> list[str]:
    """The names of classes in the order of their numbers, from a file as of read_class_map; one may stand twice.

    setting: for messages, KEY=path. Raises UserError as read_class_map does.
    """
    try:
        text = read_text(Path(path).expanduser())
    except OSError as error:
        raise UserError(f"{setting} cannot be read: {error.strerror}; name a file") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{setting} is no text ({first_line(error)}); save it as UTF-8") from None
    pairs = _from_json(text, setting) if text.lstrip()[:1] in ("{", "[") else _from_lines(text, setting)
    by_index: dict[int, str] = {}
    for name, index in pairs:
        name = nfc(name)
        if index in by_index:
            raise UserError(f"{setting} gives {shown(by_index[index])} and {shown(name)} the same index {index}")
        by_index[index] = name
    if len(by_index) < 2:
        raise UserError(f"{setting} names {len(by_index)} classes; it needs 2 or more")
    if outside := sorted(set(by_index) - set(range(len(by_index)))):
        raise UserError(
            f"{setting} gives {shown(by_index[outside[0]])} the index {outside[0]}, but its {len(by_index)} classes "
            f"count from 0 to {len(by_index) - 1}; number them so"
        )
    return [by_index[index] for index in range(len(by_index))]


def _from_json(text: str, setting: str) -> list[tuple[str, int]]:
    try:
        document = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{setting} is no valid JSON: {first_line(error)}") from None
    wrong = UserError(f'{setting} must hold {{"name": index, ...}}, {{"index": "name", ...}} or ["name", ...]')
    if isinstance(document, _Pairs):
        if all(type(value) is int for _, value in document):
            return list(document)
        if all(isinstance(value, str) and _is_index(key) for key, value in document):
            return [(value, int(key)) for key, value in document]
        raise wrong
    if isinstance(document, list) and all(isinstance(name, str) for name in document):
        return [(name, index) for index, name in enumerate(document)]
    raise wrong


class _Pairs(list[Any]):
    """A JSON object as the pairs that stand in it, so that a name given twice is seen."""


def _from_lines(text: str, setting: str) -> list[tuple[str, int]]:
    """A name per line, or name and index in either order, apart by comma, semicolon or tab; a header may precede."""
    lines = [line for line in text.splitlines() if line.strip()]
    separator = next((sign for sign in "\t;," if lines and all(sign in line for line in lines)), None)
    if separator is None:
        return [(line.strip(), index) for index, line in enumerate(lines)]
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    except csv.Error as error:
        raise UserError(f"{setting} cannot be read as lines of name,index: {error}") from None
    if wrong := next((row for row in rows if len(row) != 2), None):
        raise UserError(f"{setting} has a line of {len(wrong)} columns ({some(wrong)}); it takes name,index")
    body = rows if any(map(_is_index, rows[0])) else rows[1:]
    indexed = [column for column in (0, 1) if body and all(_is_index(row[column]) for row in body)]
    if len(indexed) == 2 and any(int(row[0]) != int(row[1]) for row in body):
        raise UserError(f'{setting} has two columns of numbers; write it as JSON, {{"name": index, ...}}')
    if not indexed:
        raise UserError(f"{setting} has no column of indices 0, 1, ...; it takes name,index or one name per line")
    return [(row[1 - indexed[-1]], int(row[indexed[-1]])) for row in body]


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def labels_by_name(by_class: Mapping[str, Sequence[str]], index_of: Mapping[str, int]) -> list[int]:
    """The class of every file, in the order of the folders."""
    return [index_of[name] for name, files in by_class.items() for _ in files]
