"""Files and folders of the store: whole or not at all, private unless the store is shared by a group.

A store is its owner's alone (folders of mode 0700), unless its root has been prepared for a group as usual on clusters,
`chgrp lab runs; chmod 2770 runs`: then whatever is made in it belongs to that group too.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rnet.errors import UserError

PRIVATE = 0o700
SHARED = 0o2770
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
DISK_ERRORS = (*NO_ROOM, errno.EFBIG, errno.EIO, errno.EROFS)
"""What a disk says at any call; errors of a write do not name the file."""
IN_THE_WAY = (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENXIO, errno.EINVAL)
"""What is said of a folder, a link or a pipe where there should be a file."""


def is_shared(path: Path) -> bool:
    """Whether the folder, or the nearest above it that exists, is a group's: set-group-ID and writable for it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    mode = path.stat().st_mode
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)


def share_files(root: Path) -> None:
    """Lets the group write the files that this process makes from now on, if the store is shared (by its umask)."""
    if is_shared(Path(root).expanduser().absolute()):
        os.umask(os.umask(0o077) & ~0o070)


def make_folder(path: Path) -> None:
    """Makes a folder of the store and those above it that are missing. Raises OSError."""
    missing = []
    path = Path(path).absolute()
    while not path.exists():
        missing.append(path)
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    mode = SHARED if is_shared(path) else PRIVATE
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another process was faster
            folder.mkdir(mode=PRIVATE)
            folder.chmod(mode)  # whatever the umask


def open_file(path: Path) -> io.BufferedReader:
    """A regular file, to be read. Raises OSError, also for a pipe or a device, at which reading might never end."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(number, "rb")


def read_file(path: Path) -> bytes:
    """All of a regular file. Raises OSError as open_file does."""
    with open_file(path) as file:
        return file.read()


def open_lock(path: Path) -> IO[bytes]:
    """A file to be locked, made if there is none. Raises OSError, also for a link, which might be to a result."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)


def replace_file(path: Path, fill: Callable[[IO[bytes]], object], *, new: bool = False) -> bool:
    """Writes a new file under a temporary name, syncs it, renames it to `path` and syncs the folder. Raises OSError.

    An OSError while `fill` writes is raised also where fill makes another error of it, as torch.save does. new: only if
    there is no such file yet, by a hard link, which is atomic on NFS too. Returns whether the file was put there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    watched = None
    try:
        with temporary.open("wb", buffering=0) as file:
            watched = _Watched(file)
            with io.BufferedWriter(watched) as buffered:
                fill(buffered)
                buffered.flush()
                os.fsync(file.fileno())
        if not new:
            os.replace(temporary, path)
        elif not _linked(temporary, path):
            return False
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if watched is not None and watched.problem is not None and error is not watched.problem:
            raise watched.problem from error
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed had begun to write there; nobody else may be writing."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            path.unlink()


def _linked(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


class _Watched(io.RawIOBase):
    """A file that remembers what went wrong when it was written."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.problem: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        try:
            return self._file.write(data)
        except OSError as error:
            self.problem = error
            raise


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces the file: at every moment, also after a crash, a reader finds the old bytes or all of the new ones."""
    replace_file(Path(path), lambda file: file.write(data))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file; others wait. The system releases it when the process dies.

    Raises UserError if the file cannot be made.
    """
    try:
        make_folder(path.parent)
        file = open_lock(path)
    except OSError as error:
        raise unwritable(path, error) from None
    with file, holding(file):
        yield


@contextmanager
def holding(lock: IO[Any]) -> Iterator[None]:
    """Holds the lock of an open file, once nobody else does; others wait.

    It is given back at the end of the block, although processes that were forked within have the same open file, too.
    """
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Holds an exclusive lock on the file if nobody else does and it can be opened; whether it does."""
    try:
        file = open_lock(path)
    except OSError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def unwritable(path: Path, error: OSError) -> UserError:
    """The error for a file that cannot be written: what Linux says, and what helps."""
    remedy = {
        **dict.fromkeys(NO_ROOM, "free some space and run the command again"),
        errno.EFBIG: "raise the limit on the size of files (ulimit -f) and run the command again",
        **dict.fromkeys(IN_THE_WAY, "it is in the way: delete it and run the command again"),
        errno.EIO: "see to the disk, or the network that it is on, and run the command again",
    }
    if error.errno in remedy:
        return UserError(f"cannot write {path}: {error.strerror}; {remedy[error.errno]}")
    return UserError(f"cannot write {path}: {error.strerror}; choose another --root")
