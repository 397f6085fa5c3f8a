"""Small JSON files that many processes on many machines read while they change: whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from rnet.errors import UserError
from rnet.storage.files import make_folder, unwritable


def write_json(path: Path, document: Any, *, new: bool = False) -> bool:
    """Replaces the file atomically and durably. new: only if there is none yet; returns whether it was written.

    A new file appears by a hard link, which is atomic on NFS too. Raises UserError when the disk is full or read-only.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        make_folder(path.parent)
        with temporary.open("w") as file:
            json.dump(document, file, separators=(",", ":"))
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        if not new:
            os.replace(temporary, path)
            return True
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any | None:
    """What the file holds; None if there is none. Raises UserError if it cannot be read or is damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the owner of the store") from None
    except ValueError:
        raise UserError(f"{path} is damaged; delete it and run the command again") from None


def names_in(folder: Path) -> list[str]:
    """The names in a folder, none if it does not exist. Raises UserError if it cannot be listed."""
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; check --root and the owner of the store") from None
