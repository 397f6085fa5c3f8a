"""`rnet sweep clean`: what no sweep of a store refers to, and nobody has touched for a while.

A sweep refers to the cells of its plan, ROOT/sweeps/NAME.json, whichever of them are done. Kept besides: what was
written lately, what is under way (by the cluster's word, a lock or a recent file), and the parents of what is kept. Of
records those are kept that say how a cell stands that a sweep still wants, and the code that a kept attempt ran.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch.sweep.clusters.base import living
from launch.sweep.plan.plan import read_plan
from launch.sweep.records.submissions import LIVE, Submission, read_all, submitting
from rnet.config.documents import content_id, read_document
from rnet.errors import UserError
from rnet.stages.graph import GRAPH, STAGE_NAMES, Document
from rnet.stages.sizes import stage_folders, taken
from rnet.stages.store import RESULT
from rnet.storage.files import locked_if_free
from rnet.storage.json_files import names_in, read_json
from rnet.storage.manifest import label_of

LATELY = 3600.0
"""Seconds in which nothing is removed that was written, whatever the user says: it may still be under way."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Something that nobody needs: a folder or a file with what belongs to it. label: where it is, below the root."""

    kind: str
    label: str
    paths: tuple[Path, ...]
    bytes: int
    newest: float


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """pieces: what may go. younger: pieces that are too young. busy: labels of unreferenced stages under way.
    trouble: a cluster that could not be asked, whose submissions are taken to be under way."""

    pieces: list[Piece]
    younger: list[Piece]
    busy: list[str]
    trouble: str = ""


def clean(root: Path, *, days: float, remove: bool = False) -> Cleaning:
    """What no sweep refers to and nobody has touched for so many days; with remove it is gone afterwards.

    Raises UserError for a store that is none, and for a plan or a record that cannot be read: what it refers to is not
    known.
    """
    if not root.is_dir():
        raise UserError(f"--root={str(root)!r} is no store; name the folder that commands were given as --root")
    if not days >= 0:
        raise UserError(f"--days={days:g} must be 0 or more")
    with submitting(root):
        found = _Store(root).look(max(days * 86_400, LATELY))
        if remove:
            for piece in found.pieces:
                _remove(root, piece)
    return found


def labels_by_sweep(root: Path) -> dict[str, set[str]]:
    """The labels of the cells of every sweep that was submitted to the store."""
    names = sorted(name for name in names_in(root / "sweeps") if name.endswith(".json"))
    return {
        name.removesuffix(".json"): {cell.label for cell in read_plan(root / "sweeps" / name).cells} for name in names
    }


class _Store:
    """A store, looked at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._now = time.time()
        try:
            self._sweeps = labels_by_sweep(root)
        except UserError as error:
            raise UserError(f"{error}; or delete it, to give up what it refers to") from None
        self._wanted = set().union(*self._sweeps.values())
        self._submissions = read_all(root)
        found, self._trouble = living(self._submissions)
        self._living = [*found, *(s for s in self._submissions if s.state == "intended" and s not in found)]
        self._under_way = {
            label
            for submission in self._living
            for cell, about in submission.cells.items()
            for label in (cell, *about["parents"])
        }

    def look(self, seconds: float) -> Cleaning:
        """All that nobody needs, by whether it was touched within so many seconds."""
        folders = {label_of(folder): folder for folder in stage_folders(self._root)}
        loose = {label: folder for label, folder in folders.items() if label not in self._wanted}
        stages = [self._piece(label.partition("/")[0], label, (folder,)) for label, folder in loose.items()]
        busy = {label for label, folder in loose.items() if self._is_busy(label, folder)}
        kept = busy | {piece.label for piece in stages if self._now - piece.newest < seconds}
        for label in sorted(kept):
            kept |= _ancestors(loose[label]) & loose.keys()
        records = list(self._records(folders.keys() - (loose.keys() - kept)))
        pieces = [piece for piece in stages if piece.label not in kept]
        pieces += [piece for piece in records if self._now - piece.newest >= seconds]
        younger = [piece for piece in stages if piece.label in kept - busy]
        younger += [piece for piece in records if self._now - piece.newest < seconds]
        return Cleaning(pieces=pieces, younger=younger, busy=sorted(busy), trouble=self._trouble)

    def _is_busy(self, label: str, folder: Path) -> bool:
        """Whether a stage may be under way."""
        if label in self._under_way:
            return True
        if not (folder / "lock").exists():
            return False
        with locked_if_free(folder / "lock") as free:
            return not free

    def _piece(self, kind: str, label: str, paths: tuple[Path, ...]) -> Piece:
        found = [taken(path) for path in paths]
        return Piece(
            kind=kind, label=label, paths=paths, bytes=sum(about.bytes for about in found),
            newest=max((about.newest for about in found), default=0.0),
        )  # fmt: skip

    def _records(self, staying: set[str]) -> Iterator[Piece]:
        """Attempts, submissions, snapshots and boards that nobody needs while these stages stay."""
        root = self._root
        snapshots = set()
        for stage in STAGE_NAMES:
            of: dict[str, list[Path]] = {}
            for name in sorted(names_in(root / "attempts" / stage)):
                of.setdefault(name.partition(".")[0], []).append(root / "attempts" / stage / name)
            for cell_id, paths in of.items():
                label = f"{stage}/{cell_id}"
                if label in self._wanted or label in self._under_way or label in staying:
                    snapshots |= {(read_json(path) or {}).get("snapshot") for path in paths}
                else:
                    yield self._piece("attempts", f"attempts/{label}", tuple(paths))
        needed = {submission.token for submission in self._needed()}
        snapshots |= {s.snapshot for s in self._submissions if s.token in needed}
        for submission in self._submissions:
            if submission.token not in needed:
                token = submission.token
                both = (root / "submissions" / f"{token}.json", root / "jobs" / token)
                yield self._piece("submissions", f"submissions/{token}", tuple(path for path in both if path.exists()))
        known = {submission.token for submission in self._submissions}
        for folder, keep in (("jobs", known), ("snapshots", snapshots), ("sweeps", self._sweeps.keys())):
            for name in sorted(names_in(root / folder)):
                if name not in keep and (root / folder / name).is_dir():
                    yield self._piece(folder, f"{folder}/{name}", (root / folder / name,))

    def _needed(self) -> Iterator[Submission]:
        """Submissions that are under way, or the newest of a cell that a sweep wants and that has no result."""
        newest: dict[str, Submission] = {}
        for submission in self._submissions:
            if submission.state in LIVE:
                newest |= dict.fromkeys(submission.cells, submission)
        yield from self._living
        for label, submission in newest.items():
            if label in self._wanted and not (self._root / label / RESULT).exists():
                yield submission


def _ancestors(folder: Path) -> set[str]:
    """The labels of the stages that a stage was computed from, as its configuration has them."""
    try:
        return set(_parents(read_document(folder / "config.yaml")))
    except UserError:
        return set()  # damaged: what it was made from cannot be known


def _parents(document: Document) -> Iterator[str]:
    stage = GRAPH.get(document.get("stage", ""))
    for key, parent in (stage.parents if stage else {}).items():
        if isinstance(inner := document.get(key), dict):
            yield f"{parent}/{content_id(inner)}"
            yield from _parents(inner)


def _remove(root: Path, piece: Piece) -> None:
    """Removes a piece, a stage's result first: whenever it is cut off, nothing half removed passes for finished."""
    for path in piece.paths:
        if piece.kind in STAGE_NAMES:
            with locked_if_free(path / "lock") as free:
                if free:
                    (path / RESULT).unlink(missing_ok=True)
                    shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
