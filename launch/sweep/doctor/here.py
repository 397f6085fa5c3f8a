"""What rnet sweep doctor looks at on this machine: the folder of the store, and the machine where there is no Slurm."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.sweep.clusters.local import default_workers, visible_gpus
from rnet.command.run import show_json


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: what was looked at, what was found, and what it means for rnet, if anything. bad: it will not work."""

    about: str
    found: str
    means: str = ""
    bad: bool = False


def findings_here(why: str) -> list[Finding]:
    """What this machine offers where no Slurm answers. why: what was said instead."""
    no_command = why.startswith("no Slurm here")
    gpus = len(visible_gpus())
    return [
        Finding(about="Slurm", found="none on this machine" if no_command else f"does not answer: {why}",
                means="log in to a node of a cluster, or use cluster=local or cluster=mpi"),
        Finding(about="this machine", found=f"{len(os.sched_getaffinity(0))} CPUs, {gpus} GPUs",
                means=f"cluster=local computes {default_workers()} cells at once"),
        Finding(about="mpiexec", found=shutil.which("mpiexec") or "not on PATH"),
    ]  # fmt: skip


def folder_findings(root: Path) -> list[Finding]:
    """Whether the store's folder can do what rnet needs; tried in a folder that is removed again."""
    place = root.resolve()
    while not place.exists():
        place = place.parent
    kind = _file_system(place)
    found = [Finding(about="store", found=f"{place} ({kind})", means="every node must see it under this path")]
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".rnet-doctor-") as name:
            for about, trial in (("rename", _rename), ("hard link", _link), ("flock", _flock)):
                try:
                    works = trial(Path(name))
                    why = "" if works else "it has no effect"
                except OSError as error:
                    why = str(error.strerror)
                means = f"rnet needs it: {_WHY[about]}" if why else ""
                found.append(Finding(about=f"store: {about}", found=why or "works", means=means, bad=bool(why)))
    except OSError as error:
        means = "give --root a folder that you can write to"
        found.append(Finding(about="store: writing", found=str(error.strerror), means=means, bad=True))
    return found


_WHY = {
    "rename": "results appear whole or not at all",
    "hard link": "two attempts cannot get one number",
    "flock": "two submitters or nodes cannot take the same cells (Lustre: mount with -o flock)",
}


def _rename(folder: Path) -> bool:
    (folder / "a").write_text("new")
    (folder / "b").write_text("old")
    os.replace(folder / "a", folder / "b")
    return (folder / "b").read_text() == "new"


def _link(folder: Path) -> bool:
    (folder / "c").write_text("")
    os.link(folder / "c", folder / "d")
    try:
        os.link(folder / "c", folder / "d")
    except FileExistsError:
        return True
    return False


def _flock(folder: Path) -> bool:
    with (folder / "lock").open("w") as one, (folder / "lock").open("w") as other:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _file_system(place: Path) -> str:
    """The type of the file system that a folder is on."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown file system"
    fitting = [(len(m[1]), m[2]) for m in mounts if len(m) > 2 and place.is_relative_to(m[1].replace("\\040", " "))]
    return max(fitting, default=(0, "unknown file system"))[1]


def show(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Prints the findings: a line each, and under it what it means."""
    if as_json:
        show_json([asdict(finding) for finding in findings])
        return
    width = min(30, max(len(finding.about) for finding in findings))
    for finding in findings:
        print(f"{'!' if finding.bad else ' '} {finding.about:{width}}  {finding.found}")  # noqa: T201
        if finding.means:
            print(f"  {'':{width}}  -> {finding.means}")  # noqa: T201
