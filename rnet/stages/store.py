"""The content-addressed store: a stage and its resolved configuration name a folder; a finished one is never redone.

    <root>/<stage>/<id>/{config.yaml, status.json, log.jsonl, tensorboard/, ..., manifest.json, result.json}

result.json appears atomically, only when the stage is complete, and holds only what the configuration determines;
times and places are in status.json. manifest.json has the digests of all that others read; they are checked at reading.
Where several processes share a stage, they call the same functions together: rank 0 reads and writes, the others are
told.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from rnet import __version__
from rnet.config.documents import content_id, read_document, to_yaml
from rnet.errors import UserError
from rnet.parallel.collectives import rank, same_on_all, wait_for_all, world_size
from rnet.stages.graph import Document
from rnet.stages.memory import peak_memory, start_peak
from rnet.storage.files import DISK_ERRORS, holding, make_folder, open_lock, remove_unfinished, unwritable, write_atomic
from rnet.storage.json_files import as_json, parse_json, read_information, write_information
from rnet.storage.manifest import Entry, again, check_file, read_manifest, write_manifest
from rnet.storage.shapes import NUMBER, fits
from rnet.training.finite import Diverged
from rnet.training.signals import Preempted

RESULT = "result.json"
"""The file that says that a stage is complete."""


def read_result(folder: Path, config: bytes | None = None) -> dict[str, Any] | None:
    """What the finished stage in the folder found, None if it is not finished; config: what config.yaml must hold.

    Raises UserError if a file is not as the manifest says, or the folder is not that of the configuration.
    """
    path = folder / RESULT
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the owner of the store") from None
    files = read_manifest(folder)
    for name in ("config.yaml", RESULT):
        check_file(folder, name, files)
    if config is not None and Entry.of(config) != files["config.yaml"]:
        kept = folder / "config.yaml"
        if _named_by(kept) != folder.name:  # the same may be written in several ways
            raise UserError(f"{kept} is not the configuration that the folder is named by; {again(folder)}")
    try:
        result: dict[str, Any] = dict(parse_json(path.read_bytes()))
    except (ValueError, TypeError):
        raise UserError(f"{path} is no result of a stage; {again(folder)}") from None
    return result


def _named_by(config: Path) -> str | None:
    """The name that a folder has of the configuration in it; None for what no stage was ever computed from."""
    try:
        return content_id(read_document(config))
    except (TypeError, ValueError):
        return None


class Store:
    """A folder of stage folders. Nothing is created until a stage starts."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser()
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"--root={str(root)!r} is a file; name a folder")

    def folder(self, document: Document) -> StageFolder:
        """The folder of the stage that a document (with its key "stage") describes, existing or not."""
        return StageFolder(self.root / document["stage"] / content_id(document), document)


class StageFolder:
    """One stage's folder. `result()` is None until the stage is complete."""

    def __init__(self, path: Path, document: Document) -> None:
        self.path = path
        self.document = document
        self._started = 0.0
        self._seconds_before = 0.0
        self._attempt = 1
        self.startup: dict[str, float] = {}
        """Of this attempt: seconds until the first step, by what they went to."""

    @property
    def id(self) -> str:
        """The content id, also the folder's name."""
        return self.path.name

    @property
    def label(self) -> str:
        """Stage and id, for messages: train/0123456789abcdef."""
        return f"{self.path.parent.name}/{self.path.name}"

    def result(self) -> dict[str, Any] | None:
        """What the finished stage found, or None."""
        return same_on_all(self._read_result() if rank() == 0 else None)

    def _read_result(self) -> dict[str, Any] | None:
        return read_result(self.path, to_yaml(self.document).encode())

    def files(self) -> Mapping[str, Entry]:
        """The files of the finished stage that its manifest lists. Raises UserError if that is damaged."""
        return read_manifest(self.path)

    def file(self, name: str) -> Path:
        """A file of the finished stage, found to be as it was written. Raises UserError if it is not."""
        return check_file(self.path, name, self.files())

    def status(self) -> dict[str, Any]:
        """State, attempt, seconds, peak memory (bytes) and versions of the latest attempt; empty if there was none."""
        return read_information(self.path / "status.json")

    @contextmanager
    def building(self) -> Iterator[None]:
        """Holds the folder while the stage is computed: one process at a time, others wait and then find the result.

        An exception leaves checkpoints for the next attempt; a UserError before any checkpoint leaves nothing, unless
        the run diverged: then its curves, log and state stay.
        """
        if rank() > 0:
            wait_for_all()
            yield
            return
        fresh = not self.path.exists()
        try:
            make_folder(self.path)
            lock = open_lock(self.path / "lock")  # held until the stage ends
        except OSError as error:
            raise unwritable(Path(error.filename or self.path), error) from None
        with lock, holding(lock):
            try:
                if self._read_result() is None:
                    remove_unfinished(self.path)
                    before = self.status()
                    if fits(before, {"attempt": int, "seconds": NUMBER}):
                        self._attempt, self._seconds_before = before["attempt"] + 1, before["seconds"]
                    else:  # there was none, or it is somebody's who knows how to make a digest
                        self._attempt, self._seconds_before = 1, 0.0
                    self._started = time.monotonic()
                    start_peak()
                    write_atomic(self.path / "config.yaml", to_yaml(self.document).encode())
                    self.write_status("running")
                wait_for_all()
                yield
            except Preempted as error:
                self.write_status("preempted", error=str(error), step=error.step, total=error.total)
                raise
            except UserError as error:
                self._note_failure("failed", str(error))
                nothing = fresh and not any((self.path / "checkpoints").glob("*"))
                if nothing and not isinstance(error, Diverged):
                    self._remove()
                raise
            except BaseException as error:
                self._note_failure("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", repr(error))
                if isinstance(error, OSError) and (place := self._place_of(error)) is not None:
                    raise unwritable(place, error) from None
                raise

    def complete(self, compute: Callable[[StageFolder], dict[str, Any]]) -> StageFolder:
        """This folder, finished: compute makes the result, unless another process has meanwhile."""
        with self.building():
            if self.result() is None:
                self.commit(compute(self))
                wait_for_all()
        return self

    def commit(self, result: dict[str, Any]) -> dict[str, Any]:
        """Declares the stage complete: writes result.json, then removes the checkpoints. Returns the result."""
        if rank() > 0:
            return result
        data = as_json(result, to_read=True)
        try:
            write_manifest(self.path, {RESULT: data})
            write_atomic(self.path / RESULT, data)
        except OSError as error:
            raise unwritable(self.path / RESULT, error) from None
        self.write_status("done")
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        return result

    def discard(self) -> None:
        """Removes what this stage has made so far, checkpoints too."""
        if rank() > 0:
            return
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in ("lock", "config.yaml", "status.json"):
                path.unlink()

    def write_status(self, state: str, **extra: Any) -> None:
        """Records the state of this attempt beside how long all attempts took so far."""
        if rank() > 0:
            return
        status = {
            "state": state,
            "attempt": self._attempt,
            "seconds": round(self._seconds_before + time.monotonic() - self._started, 3),
            "peak_memory": peak_memory(),
            "updated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "pid": os.getpid(),
            "host": platform.node(),
            "processes": world_size(),
            **({"startup": self.startup} if self.startup else {}),
            "versions": {"rnet": __version__, "torch": torch.__version__, "python": platform.python_version()},
            **extra,
        }
        write_information(self.path / "status.json", status)

    def _note_failure(self, state: str, error: str) -> None:
        """Records how the attempt ended, where that can still be written."""
        with suppress(UserError):
            self.write_status(state, error=error)

    def _place_of(self, error: OSError) -> Path | None:
        """The file of this folder, or the folder, that the error is about; None if it is about something else."""
        name = error.filename2 or error.filename
        if isinstance(name, str | os.PathLike) and self.path in Path(name).parents:
            return Path(name)
        return Path(name or self.path) if error.errno in DISK_ERRORS else None

    def _remove(self) -> None:
        shutil.rmtree(self.path)
        for parent in (self.path.parent, self.path.parent.parent):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
