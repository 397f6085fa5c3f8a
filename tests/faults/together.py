"""Two and four processes on one id at once, also with the one killed that computes: computed once, the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

from tests.faults.table import Outcome, outcome
from tests.faults.work import Bench

FAULT = "the same command at once"


def case(bench: Bench, number: int, draw: random.Random, desk: Path) -> Outcome | None:
    """Two or four of them; in every other case the one that holds the stage is killed."""
    count, killed = draw.choice((2, 4)), number % 2 == 1
    work = draw.choice([work for work in bench.plain if work.stage in ("train", "attack", "fingerprint")])
    undisturbed, store = bench.undisturbed(work), desk / "store"
    shutil.copytree(undisturbed.parents, store)
    processes = [bench.start(work, store, desk / f"desk{n}")[0] for n in range(count)]
    where = f"{count} processes{', the one that computes is killed' if killed else ''}"
    if killed:
        holder = _holder(store, work.stage)
        if holder not in [process.pid for process in processes]:
            bench.wait(processes)
            return None
        time.sleep(draw.uniform(0, undisturbed.seconds / 2))
        os.kill(holder, signal.SIGKILL)
    ends = bench.wait(processes)
    died = [end for end in ends if end.status == -signal.SIGKILL]
    if killed and not died:
        return None
    for end in ends:
        if end not in died and (end.status != 0 or "Traceback" in end.said):
            return outcome(FAULT, where, f"{work}: {end.describe()}")
    problem = undisturbed.difference(store)
    shown = {end.shown for end in ends if end.status == 0}
    if problem is None and len(shown) != 1:
        problem = f"they show different results: {shown}"
    attempts = _status(store, work.stage).get("attempt")
    if problem is None and attempts not in ((1, 2) if killed else (1,)):
        problem = f"it was computed {attempts} times"
    return outcome(FAULT, where, problem and f"{work}: {problem}")


def _holder(store: Path, stage: str) -> int | None:
    """The process that computes the stage, as soon as it says so."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if pid := _status(store, stage).get("pid"):
            return int(pid)
        time.sleep(0.002)
    return None


def _status(store: Path, stage: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in store.glob(f"{stage}/*/status.json"):
        found = json.loads(path.read_text())
    return found
