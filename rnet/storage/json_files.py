"""JSON files, which other processes on other machines may read while they change: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from rnet.errors import UserError
from rnet.storage.files import IN_THE_WAY, make_folder, read_file, replace_file, unwritable

logger = logging.getLogger(__name__)

_SEAL = "sha256"


def write_json(path: Path, document: Any, *, new: bool = False, to_read: bool = False) -> bool:
    """Replaces the file atomically and durably. new: only if there is none yet; returns whether it was written.

    to_read: for people, indented and sorted; else as short as it gets. Raises UserError when the disk is full or
    read-only.
    """
    data = as_json(document, to_read=to_read)
    try:
        make_folder(path.parent)
        return replace_file(path, lambda file: file.write(data), new=new)
    except OSError as error:
        raise unwritable(path, error) from None


def as_json(document: Any, *, to_read: bool = False) -> bytes:
    """What write_json writes."""
    style: dict[str, Any] = {"indent": 2, "sort_keys": True} if to_read else {"separators": (",", ":")}
    return (json.dumps(document, **style) + "\n").encode()


def parse_json(data: bytes) -> Any:
    """What JSON in UTF-8 says. Raises ValueError for anything else, also for what is nested without end."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_information(path: Path, document: dict[str, Any]) -> None:
    """Writes an object that nothing is computed from, with its digest. Raises UserError as write_json does."""
    write_json(path, {**document, _SEAL: digest_of_json(document)}, to_read=True)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl that hold "step", "time" and other numbers; those that are damaged are passed over.

    Empty where there is no such file.
    """
    try:
        return parse_log(read_file(path))
    except OSError:
        return []


def parse_log(data: bytes) -> list[dict[str, Any]]:
    """What read_log returns, of lines that have been read."""
    return [found for line in data.splitlines() if (found := _numbers(line))]


def _numbers(line: bytes) -> dict[str, Any]:
    """What a line says in numbers; nothing where its step or time is none."""
    try:
        found = {name: value for name, value in parse_json(line).items() if is_number(value)}
    except (ValueError, AttributeError):  # torn by a crash
        return {}
    return found if isinstance(found.get("step"), int) and math.isfinite(found.get("time", math.nan)) else {}


def is_number(value: Any) -> bool:
    """Whether JSON of any origin gives a number, and none that overflows where floats are computed with."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def read_information(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """What write_information wrote; empty if there is none. sealed: one without a digest is damaged, too.

    A damaged file stops nothing: it is set aside under the name .damaged, with a warning.
    """
    try:
        found = parse_json(read_file(path))
        seal = found.pop(_SEAL, None)
        if seal == digest_of_json(found) or (seal is None and not sealed and not any(map(_is_digest, found.values()))):
            return dict(found)  # older versions wrote no digest; one under another name is a damaged file
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        if error.errno not in IN_THE_WAY:
            logger.warning("cannot read %s: %s", path, error.strerror)
            return {}
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    set_aside(path)
    return {}


def set_aside(path: Path) -> None:
    """Gives a damaged file, from which nothing is computed, the name .damaged, with a warning."""
    aside = path.with_name(f"{path.name}.damaged")
    with suppress(OSError):
        path.replace(aside)
    logger.warning("%s was damaged and is now %s; it is only information, nothing else is lost", path, aside.name)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == hashlib.sha256().digest_size * 2


def digest_of_json(document: Any) -> str:
    """SHA-256 of a document's content, in hexadecimal digits, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path, *, remedy: str = "delete it") -> Any | None:
    """What the file holds; None if there is none. Raises UserError if it cannot be read or is damaged."""
    try:
        return parse_json(read_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the owner of the store") from None
    except ValueError:
        raise UserError(f"{path} is damaged; {remedy} and run the command again") from None


def names_in(folder: Path) -> list[str]:
    """The names in a folder, none if it does not exist. Raises UserError if it cannot be listed."""
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; check --root and the owner of the store") from None
