"""JSON files, which other processes on other machines may read while they change: whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rnet.errors import UserError
from rnet.storage.files import make_folder, replace_file, unwritable


def write_json(path: Path, document: Any, *, new: bool = False, to_read: bool = False) -> bool:
    """Replaces the file atomically and durably. new: only if there is none yet; returns whether it was written.

    to_read: for people, indented and sorted; else as short as it gets. Raises UserError when the disk is full or
    read-only.
    """
    style: dict[str, Any] = {"indent": 2, "sort_keys": True} if to_read else {"separators": (",", ":")}
    data = (json.dumps(document, **style) + "\n").encode()
    try:
        make_folder(path.parent)
        return replace_file(path, lambda file: file.write(data), new=new)
    except OSError as error:
        raise unwritable(path, error) from None


def read_json(path: Path, *, remedy: str = "delete it") -> Any | None:
    """What the file holds; None if there is none. Raises UserError if it cannot be read or is damaged."""
    try:
        return json.loads(path.read_text())
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
