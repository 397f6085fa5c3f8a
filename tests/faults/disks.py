"""Full and failing disks: an error at every call of the file system, a file system with no room, a limit on sizes.

The disturbed command says in one line what cannot be written, or does not need it. Nothing finished is touched. The
same command, when there is room again, ends as if nothing had happened.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.file_calls import FREEING, Fault, FileCalls
from tests.faults.process import Ended
from tests.faults.table import Outcome, outcome
from tests.faults.work import Bench, Undisturbed

ERRORS = ("ENOSPC", "ENOSPC", "EDQUOT", "EFBIG", "EIO")
ONLY_WRITES = ("EFBIG",)
FIRED = "fired"
SMALL_DISK, SMALL_FILES = "tmpfs without room", "RLIMIT_FSIZE"


def case(bench: Bench, number: int, draw: random.Random, desk: Path) -> Outcome | None:
    """One fault, and the same command without it; None where this machine does not allow such a one."""
    shared = [work for work in bench.shared if work.engine == "ddp"]
    work = draw.choice(shared if shared and number % 10 == 9 else bench.plain)
    undisturbed, store = bench.undisturbed(work), desk / "store"
    if number % 10 == 4:
        return small_disk(bench, undisturbed, draw, desk)
    shutil.copytree(undisturbed.parents, store)
    if number % 10 == 7:
        limit = draw.choice((0, 1, 100, 1000, 5000, 20000))
        prepare = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return disturbed(bench, undisturbed, desk, SMALL_FILES, prepare, f"{limit} bytes")
    name = draw.choice(ERRORS)
    points = places(undisturbed, name)
    at = draw.choice(points)
    lasting = name != "EIO" or draw.random() < 0.5
    fault = Fault(at=at, errno=getattr(errno, name), lasting=lasting)
    what = f"at file call {at}, {undisturbed.calls[at - 1]}{', and at all later ones' if lasting else ''}"
    return disturbed(bench, undisturbed, desk, name, FileCalls(store, fault, fired=desk / FIRED).install, what)


def places(undisturbed: Undisturbed, name: str) -> list[int]:
    """The numbers of the calls at which the error can come."""
    return [
        at
        for at, call in enumerate(undisturbed.calls, start=1)
        if (call == "write" if name in ONLY_WRITES else name == "EIO" or call not in FREEING)
    ]


def disturbed(
    bench: Bench, undisturbed: Undisturbed, desk: Path, name: str, prepare: Callable[[], object] | None, what: str,
    *, store: Path | None = None, free: Callable[[], object] = lambda: None,
) -> Outcome | None:  # fmt: skip
    """Runs the command with the fault, judges its end, frees the disk and runs it again; None if no fault came."""
    work, store = undisturbed.work, store or desk / "store"
    ends = bench.wait(bench.start(work, store, desk / "desk", prepare=prepare))
    problem = judge(ends, store) or undisturbed.spoiled(store)
    if name in ERRORS and not (desk / FIRED).exists():
        return None
    message = ends[0].message
    if problem is None:
        free()
        problem = bench.ends_the_same(work, store, desk / "desk")
    if problem is not None:
        problem = f"{work}, {what}: {problem}" + (f" (it had said {message!r})" if message else "")
    return outcome("full or failing disk", name, problem, message)


def judge(ends: list[Ended], store: Path) -> str | None:
    """What is wrong with how the processes ended: the first must succeed, or say one clear thing of its store."""
    first = ends[0]
    if first.status == 0 and "Traceback" not in first.said:
        return None
    if first.message is None or str(store) not in first.message:
        return first.describe()
    for other in ends[1:]:
        if other.status is None or "Traceback" in other.said:
            return f"another process: {other.describe()}"
    return None


def small_disk(bench: Bench, undisturbed: Undisturbed, draw: random.Random, desk: Path) -> Outcome | None:
    """A file system that is filled up to some pages before the command starts."""
    disk = desk / "disk"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "rnet-faults", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
        return None
    try:
        store = disk / "store"
        shutil.copytree(undisturbed.parents, store)
        pages = draw.randrange(0, 40)
        fill(disk / "full", pages)
        free = (disk / "full").unlink
        return disturbed(bench, undisturbed, desk, SMALL_DISK, None, f"{pages} pages left", store=store, free=free)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path, pages: int) -> None:
    """Fills the disk with a file up to so many pages."""
    about = os.statvfs(path.parent)
    with path.open("wb", buffering=0) as file:
        for _ in range(max(0, about.f_bavail - pages)):
            file.write(bytes(about.f_bsize))
