"""What rank 0 leaves for the other ranks of its machine: a file, readable by their user only, with port and token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rnet.errors import UserError


class Notice:
    """The file of one launch; all its ranks find it by the same words."""

    def __init__(self, launch: Sequence[str]) -> None:
        """launch: what tells this launch from all others on this machine."""
        self.path = _private_folder() / hashlib.sha256("\0".join(launch).encode()).hexdigest()[:32]

    def read(self) -> tuple[int, bytes] | None:
        """Port and token; None while there are none."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(descriptor) as file:
            found = json.load(file)
        return int(found["port"]), bytes.fromhex(found["token"])

    def write(self, port: int, token: bytes) -> bool:
        """Whether the file could be written: not where there is one."""
        draft = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "w") as file:
                json.dump({"port": port, "token": token.hex()}, file)
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def remove(self) -> None:
        """Takes the file away."""
        self.path.unlink(missing_ok=True)

    def remove_old(self, seconds: float) -> None:
        """Takes away what killed launches left so long ago that nobody waits for it."""
        for path in self.path.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > seconds:
                    path.unlink()


def _private_folder() -> Path:
    """A folder of this user's, made if it is not there; UserError where another user could have a hand in it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and _is_private(Path(runtime)):
        folder = Path(runtime) / "rnet"
    else:
        folder = Path(tempfile.gettempdir()) / f"rnet-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        private = _is_private(folder)
    except OSError as error:
        raise UserError(
            f"the ranks of this machine cannot meet in {folder}: {error.strerror}; set TMPDIR to a folder that is yours"
        ) from None
    if not private:
        raise UserError(
            f"the ranks of this machine cannot meet in {folder}: it is not a folder that only you can use; "
            "remove it, or set TMPDIR to a folder that is yours"
        )
    return folder


def _is_private(folder: Path) -> bool:
    """No link, this user's, and shut to all others."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
