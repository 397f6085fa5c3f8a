"""The clock jumps while a command or a sweep runs: by a day back, by a year forth, by an hour, again and again.

Only the time of day jumps, as when a machine's clock is set; the clock that counts from the machine's start does not.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.table import Outcome, outcome
from tests.faults.work import Bench, Undisturbed
from tests.parallel.multiprocess import REPOSITORY

FAULT = "the clock jumps"
DAY, YEAR = 86_400.0, 365 * 86_400.0
JUMPS = {"a day back": -DAY, "a year forth": YEAR, "an hour back": -3600.0, "to 1970": None}
FAKETIME = shutil.which("faketime")


def case(bench: Bench, number: int, draw: random.Random, desk: Path) -> Outcome | None:
    """A jump within a command, which may be killed after it; or another clock in every process, by faketime."""
    shared = [work for work in bench.shared if work.engine == "ddp"]
    work = draw.choice(shared if shared and number % 6 == 5 else bench.plain)
    undisturbed, store = bench.undisturbed(work), desk / "store"
    shutil.copytree(undisturbed.parents, store)
    if bench.shared and number % 8 == 3:
        return another_clock(bench, undisturbed, draw, desk)
    name = draw.choice(list(JUMPS))
    jump = jumping(JUMPS[name], draw.uniform(0, undisturbed.seconds), again=draw.random() < 0.3)
    processes = bench.start(work, store, desk / "desk", prepare=jump)
    killed = work.ranks == 1 and draw.random() < 0.5
    if killed:
        time.sleep(draw.uniform(0, 1.2 * undisturbed.seconds))
        if not processes[0].ended():
            processes[0].kill()
    ends = bench.wait(processes)
    if problem := next(
        (end.describe() for end in ends if end.status not in (0, *([-signal.SIGKILL] if killed else []))), None
    ):
        return outcome(FAULT, name, f"{work}: {problem}")
    return outcome(FAULT, name, bench.ends_the_same(work, store, desk / "desk"))


def jumping(by: float | None, after: float, *, again: bool) -> Callable[[], None]:
    """Sets the clock of a process so many seconds after its start; again: and back, and so on, each time as long after.

    by: seconds; None sets it to 1970.
    """

    def install() -> None:
        real, real_ns, gmtime, localtime = time.time, time.time_ns, time.gmtime, time.localtime
        started, offset = time.monotonic(), -real() if by is None else by

        def now() -> float:
            passed = time.monotonic() - started
            jumped = passed >= after and (not again or int(passed / max(after, 0.01)) % 2 == 1)
            return real() + (offset if jumped else 0.0)

        time.time = now
        time.time_ns = lambda: real_ns() + int(1e9 * (now() - real()))
        time.gmtime = lambda seconds=None: gmtime(now() if seconds is None else seconds)
        time.localtime = lambda seconds=None: localtime(now() if seconds is None else seconds)

    return install


def another_clock(bench: Bench, undisturbed: Undisturbed, draw: random.Random, desk: Path) -> Outcome | None:
    """A whole command, C libraries too, whose clock jumps at a moment; files keep the machine's times."""
    if FAKETIME is None:
        return None
    work, store, stamp = undisturbed.work, desk / "store", desk / "clock"
    stamp.write_text("+0\n")
    library = next(Path("/usr/lib").rglob("libfaketime.so.1"))
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if work.ranks > 1 else []
    command = [sys.executable, *ranks, "-m", "rnet", *bench.arguments(work, store)]
    environment = {
        **os.environ, "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and not list(store.glob(f"{work.stage}/*/status.json")):
            assert time.monotonic() < deadline, "the command did not start under faketime"
            time.sleep(0.01)
        time.sleep(draw.uniform(0, undisturbed.seconds / 2))
        stamp.write_text(draw.choice(("-86400\n", "+31536000\n")))
        _, said = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        return outcome(FAULT, "by faketime", f"{work}: it ended with {process.returncode}: {said[-1500:]}")
    return outcome(FAULT, "by faketime", bench.ends_the_same(work, store, desk / "desk"))
