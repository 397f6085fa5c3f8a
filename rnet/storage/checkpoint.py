"""Resumable state that survives a crash at any moment.

A checkpoint is two files, `step-<n>.pt` and its marker `step-<n>.json`. Each is written to a `.tmp` name, synced and
renamed, the marker last: a checkpoint without a marker that matches its bytes was never finished or is damaged.
Everything is read with `weights_only=True`, so that no file can run code.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from rnet.errors import UserError, first_line
from rnet.storage.files import make_folder, open_file, read_file, remove_unfinished, replace_file
from rnet.storage.json_files import parse_json, write_json

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d+)\.(pt|json)")


class Checkpoints:
    """The last `keep` checkpoints of one run, in one folder of the store, written by one process.

    identity: what a checkpoint must share with the run that resumes from it, for example the hash of the configuration,
    the architecture and the digest of the victim.
    """

    def __init__(self, folder: Path, *, keep: int = 2, identity: dict[str, str]) -> None:
        assert keep >= 1, "at least one checkpoint must be kept"
        self.folder = Path(folder)
        self.keep = keep
        self.identity = dict(identity)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes the state after `step` steps; on return it is on disk. Then removes what is no longer needed.

        state: dicts, lists and tuples of tensors, numbers, strings and None; TypeError says where something else is.
        """
        _require_plain(state, "state")
        make_folder(self.folder)
        digest = hashlib.sha256()
        data = self._data(step)
        replace_file(data, lambda file: torch.save(state, cast(IO[bytes], _Hashing(file, digest))))
        marker = {
            "step": step,
            "sha256": digest.hexdigest(),
            "size": data.stat().st_size,
            "identity": self.identity,
        }
        write_json(self._marker(step), marker, to_read=True)
        self._remove_all_but_the_last(step)

    def latest(self) -> int | None:
        """The step of the newest intact checkpoint, to be loaded; None if there is none.

        A damaged one is reported by a warning and the one before is taken. Raises UserError if an intact one belongs to
        another run (its identity differs).
        """
        steps = self._steps()
        for step in steps:
            damage = self._damage(step)
            if damage is None:
                return step
            logger.warning("checkpoint %s is damaged (%s); trying the one before", self._data(step), damage)
        if steps:
            logger.warning("no intact checkpoint in %s; starting from the beginning", self.folder)
        return None

    def load(self, step: int) -> dict[str, Any]:
        """The state after that step. Its tensors are the file's own bytes, mapped: read when they are copied from.

        Raises UserError if the file holds what `weights_only` refuses, or is no state at all.
        """
        remedy = f"delete {self.folder} to start over"
        try:
            state = torch.load(self._data(step), map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"checkpoint {self._data(step)} holds objects other than tensors, numbers and strings, which could run "
                f"code, and was refused; delete {self.folder} unless you know where it comes from"
            ) from error
        except Exception as error:  # its digest is right, so somebody made it so; torch raises almost anything then
            raise UserError(f"checkpoint {self._data(step)} cannot be read: {first_line(error)}; {remedy}") from error
        if not isinstance(state, dict):
            raise UserError(f"checkpoint {self._data(step)} holds a {type(state).__name__} and no state; {remedy}")
        return state

    def _data(self, step: int) -> Path:
        return self.folder / f"step-{step}.pt"

    def _marker(self, step: int) -> Path:
        return self.folder / f"step-{step}.json"

    def _steps(self) -> list[int]:
        """Steps of which there is a file or a marker or both, the newest first."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted({int(match[1]) for match in matches if match}, reverse=True)

    def _damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint, None if nothing is. Raises UserError if it belongs to another run."""
        data, marker_path = self._data(step), self._marker(step)
        if not marker_path.is_file():
            return "its marker is missing: it was not finished"
        try:
            marker = parse_json(read_file(marker_path))
            size, digest, identity = int(marker["size"]), str(marker["sha256"]), dict(marker["identity"])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            return f"its marker is unreadable: {type(error).__name__} {error}"
        if not data.is_file():
            return "its file is missing"
        if data.stat().st_size != size:
            return f"it has {data.stat().st_size} bytes instead of {size}"
        with open_file(data) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return "its SHA-256 is not the recorded one"
        self._require_same_identity(data, identity)
        return None

    def _require_same_identity(self, data: Path, found: dict[str, str]) -> None:
        differing = sorted(
            key for key in self.identity.keys() | found.keys() if self.identity.get(key) != found.get(key)
        )
        if differing:
            made = ", ".join(f"{key}={found.get(key)!r}" for key in differing)
            wanted = ", ".join(f"{key}={self.identity.get(key)!r}" for key in differing)
            raise UserError(
                f"checkpoint {data} was made by another run: it has {made}, this run has {wanted}; "
                f"give this run its own folder, or delete {self.folder} to start over"
            )

    def _remove_all_but_the_last(self, saved: int) -> None:
        """Keeps the last `keep` up to the one just saved. Newer ones are of a future that a fallback gave up."""
        steps = self._steps()
        finished = [
            step for step in steps if step <= saved and self._data(step).is_file() and self._marker(step).is_file()
        ]
        for step in set(steps) - set(finished[: self.keep]):
            self._remove(step)
        remove_unfinished(self.folder)

    def _remove(self, step: int) -> None:
        self._marker(step).unlink(missing_ok=True)  # first, so that what is left at a crash is known to be unfinished
        self._data(step).unlink(missing_ok=True)


def _require_plain(value: Any, place: str) -> None:
    """Raises TypeError naming the place of the first object that `weights_only` would refuse to read back."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{place} has the key {key!r}; checkpoints take str and int keys")
            _require_plain(item, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{place}[{index}]")
    elif not isinstance(value, Tensor) and type(value) not in (int, float, bool, str, type(None)):
        raise TypeError(f"{place} is a {type(value).__name__}; checkpoints hold tensors, numbers and strings")


class _Hashing:
    """A file that hashes what is written to it, so that a large state is neither held nor read twice."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file, self._digest = file, digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()
