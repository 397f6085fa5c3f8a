"""What a store takes on the disk, and how old it is: by stage, and by whoever refers to its stages."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnet.errors import UserError
from rnet.stages.graph import STAGE_NAMES
from rnet.stages.store import RESULT

NOBODY = "no sweep"
"""The name of what nobody refers to."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes of files, and when one of them was last written: seconds since the epoch, 0.0 where there is none."""

    bytes: int
    newest: float


def stage_folders(root: Path) -> Iterator[Path]:
    """The folders of all stages, finished or not. Raises UserError if there is no such store."""
    if not root.is_dir():
        raise UserError(f"--root={str(root)!r} is no store; name the folder that commands were given as --root")
    for stage in STAGE_NAMES:
        yield from sorted(path for path in (root / stage).glob("*") if path.is_dir())


def taken(path: Path) -> Taken:
    """By a file, or by all files below a folder. What another process removes meanwhile is passed over."""
    total, newest = 0, 0.0
    files = [path] if not path.is_dir() else (Path(at) / name for at, _, names in os.walk(path) for name in names)
    for file in files:
        try:
            about = os.lstat(file)
        except OSError:
            continue
        if stat.S_ISREG(about.st_mode):
            total += about.st_size
        newest = max(newest, about.st_mtime)
    return Taken(total, newest)


def sizes(root: Path, users: Mapping[str, Collection[str]] | None = None) -> dict[str, dict[str, Any]]:
    """By stage: folders that are finished and not, bytes, and when the oldest and the newest was last written.

    users: labels of stages (train/0123...) by the name of who refers to them; then also, under "sweeps", the same for
    each of them and for NOBODY, with the bytes that no other one refers to ("alone").
    """
    measured = {f"{folder.parent.name}/{folder.name}": (folder, taken(folder)) for folder in stage_folders(root)}
    found: dict[str, dict[str, Any]] = {
        stage: _together([about for label, about in measured.items() if label.startswith(f"{stage}/")])
        for stage in STAGE_NAMES
    }
    if users:
        groups = {name: set(labels) for name, labels in users.items()}
        groups[NOBODY] = measured.keys() - set().union(*groups.values())
        found["sweeps"] = {}
        for name, labels in groups.items():
            others = set().union(*(group for other, group in groups.items() if other != name))
            alone = sum(about[1].bytes for label, about in measured.items() if label in labels and label not in others)
            ours = [about for label, about in measured.items() if label in labels]
            found["sweeps"][name] = {**_together(ours), "alone": alone}
    return found


def _together(measured: Collection[tuple[Path, Taken]]) -> dict[str, Any]:
    finished = sum((folder / RESULT).exists() for folder, _ in measured)
    times = [about.newest for _, about in measured if about.newest]
    return {
        "finished": finished, "unfinished": len(measured) - finished,
        "bytes": sum(about.bytes for _, about in measured),
        "oldest": min(times, default=None), "newest": max(times, default=None),
    }  # fmt: skip
