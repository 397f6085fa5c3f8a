"""The digest by which ids name a data set's files: their content, or their names, sizes and times where they are many.

A content digest is over (name, size, SHA-256), a listing over (name, size, time of the last change), sorted by name, in
NFC and relative to the folder: how the folder is reached does not matter. What was read is kept in the store, so that
only changed files are read again, and so that it can be said what has changed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rnet.data.config import DatasetConfig
from rnet.data.files.names import counted, nfc, shown, some
from rnet.data.files.records import Files, FileState, differences, read_record, record_lock, record_path, write_record
from rnet.data.files.sets import FileSet, file_set
from rnet.errors import UserError

logger = logging.getLogger(__name__)
T = TypeVar("T")

CONTENT_UP_TO = 4 * 2**30
"""With dataset.digest=auto the content of so many bytes is read."""

_THREADS, _SHARE = 16, 64
_SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was read may change again within one tick of its file system's clock."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A data set's files at one time. digest: content or listing. changed: since the store saw them last, in words."""

    folder: Path
    digest: str
    sha256: str
    files: Files
    changed: str | None = None


@dataclass(kw_only=True)
class _Scope:
    root: Path | None
    keep: bool
    looks: dict[tuple[Any, ...], Look | None] = field(default_factory=dict)


_scope: ContextVar[_Scope | None] = ContextVar("looked_at_once", default=None)
_read_before: dict[str, Files] = {}
"""What this process has read, by folder."""


@contextmanager
def looked_at_once(root: Path | None = None, *, keep: bool = True) -> Iterator[None]:
    """Inside, every data set's files are looked at once, so that all ids agree; outside, they are at every question.

    root: a store, whose records spare reading files again; keep: whether they are written, once the store exists.
    """
    outer = _scope.get()
    if outer is not None and root in (None, outer.root):
        yield
        return
    token = _scope.set(_Scope(root=root, keep=keep, looks=outer.looks if outer else {}))
    try:
        yield
    finally:
        _scope.reset(token)


def in_scope() -> bool:
    """Whether this is inside of looked_at_once."""
    return _scope.get() is not None


def current_root() -> Path | None:
    """The store whose records are in use, if it exists."""
    scope = _scope.get()
    return scope.root if scope is not None and scope.root is not None and scope.root.is_dir() else None


def keeps_records() -> bool:
    """Whether this process writes records into the store in use."""
    scope = _scope.get()
    return scope is not None and scope.keep and current_root() is not None


def look_at(config: DatasetConfig, *, again: bool = False) -> Look | None:
    """The files that the data set is read from, and their digest; None for a set without files. Reads what is new.

    again: now, even inside of looked_at_once, which keeps what it saw first. Raises UserError for files that are not
    there or cannot be read.
    """
    scope = _scope.get()
    own = repr(config) if ":" in config.name else None  # which settings a plugin's list of files depends on is unknown
    key = (record_name(config), config.folder, config.digest, config.class_map, own)
    if scope is not None and not again and key in scope.looks:
        return scope.looks[key]
    found = file_set(config)
    look = None if found is None else _look(config, found)
    if scope is not None and not again:
        scope.looks[key] = look
    return look


def remember_looks(root: Path) -> None:
    """Writes what looked_at_once has seen into the store, which need not exist yet."""
    scope = _scope.get()
    for (name, *_), look in (scope.looks if scope is not None else {}).items():
        if look is not None:
            place = os.path.realpath(look.folder)
            write_record(record_path(root, name, place), place, look.files)


def change_of(config: DatasetConfig) -> str | None:
    """What has changed since looked_at_once began, in words; None if nothing has."""
    before, now = look_at(config), look_at(config, again=True)
    if before is None or now is None or before.sha256 == now.sha256:
        return None
    return differences(before.files, now.files) or "its files changed"


def _look(config: DatasetConfig, found: FileSet) -> Look:
    place = os.path.realpath(found.folder)
    states = _in_threads(lambda name: _state(os.path.join(place, name)), found.names)
    total = sum(state.size for state in states)
    kind = config.digest if config.digest != "auto" else "content" if total <= CONTENT_UP_TO else "listing"
    if kind == "listing" and config.digest == "auto" and place not in _read_before:
        logger.warning(
            "ids name the %s files of %s (%.1f GiB) by names, sizes and times; dataset.digest=content reads them all",
            f"{len(states):,}", shown(place), total / 2**30,
        )  # fmt: skip
    current = dict(zip(found.names, states, strict=True))
    record = record_path(current_root(), record_name(config), place)
    before = read_record(record)
    files = _with_content(place, current, record) if kind == "content" else current
    changed = differences(before, files) if before is not None else None
    if keeps_records() and files != before:
        if changed:
            logger.warning("%s has changed since this store saw it last: %s; ids follow", shown(place), changed)
        write_record(record, place, files)
    _read_before[place] = files
    return Look(folder=found.folder, digest=kind, sha256=_digest(kind, files), files=files, changed=changed)


def record_name(config: DatasetConfig) -> str:
    """The data set, with the settings that decide which of its files are read."""
    settings = [f"{key}={getattr(config, key)}" for key in config.files_by if getattr(config, key) is not None]
    return " ".join([config.name, *settings])


def _with_content(place: str, current: Files, record: Path | None) -> Files:
    """The files with their SHA-256: as known where size and times are the same, else read."""
    known = {**(read_record(record) or {}), **_read_before.get(place, {})}
    if names := _unread(current, known):
        with record_lock(record):
            known.update(read_record(record) or {})  # another process may have read them
            names = _unread(current, known)
            if (size := sum(current[name].size for name in names)) > 2**30:
                logger.info("reading %s files of %s (%.1f GiB)", f"{len(names):,}", shown(place), size / 2**30)
            read = _in_threads(lambda name: _read(os.path.join(place, name), current[name]), names)
            known.update(zip(names, read, strict=True))
            if keeps_records() and names:
                write_record(record, place, {name: known[name] for name in current})
    return {name: known[name] for name in current}


def _unread(current: Files, known: Files) -> list[str]:
    return [name for name, state in current.items() if not (name in known and known[name].vouches_for(state))]


def _digest(kind: str, files: Files) -> str:
    lines = sorted(
        (nfc(name), state.size, state.sha256 if kind == "content" else state.mtime_ns) for name, state in files.items()
    )
    digest = hashlib.sha256()
    for line in lines:
        digest.update(repr(line).encode())
    return digest.hexdigest()


def _state(path: str) -> FileState:
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):  # a pipe might never end
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return FileState(size=about.st_size, mtime_ns=about.st_mtime_ns, ctime_ns=about.st_ctime_ns)


def _read(path: str, state: FileState) -> FileState:
    now = time.time_ns()
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    settled = now - max(state.mtime_ns, state.ctime_ns) > _SETTLED_NS
    return state._replace(sha256=sha256, settled=settled)


def _in_threads(work: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """work(name) for all names. Raises UserError that counts the files that cannot be read and names the first."""
    failed: list[tuple[str, OSError]] = []

    def attempt(share: Sequence[str]) -> list[T]:
        done = []
        for name in share:
            try:
                done.append(work(name))
            except OSError as error:
                failed.append((name, error))
        return done

    shares = [names[start : start + _SHARE] for start in range(0, len(names), _SHARE)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="rnet-digest") as threads:
        done = [found for share in threads.map(attempt, shares) for found in share]
    if failed:
        failed.sort(key=lambda item: item[0])
        reason = failed[0][1].strerror or "it cannot be read"
        raise UserError(
            f"{counted(len(failed), 'file')} of the images cannot be read ({reason}): "
            f"{some(name for name, _ in failed)}; replace or remove what is damaged"
        )
    return done
