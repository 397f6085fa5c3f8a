"""SIGKILL of single commands: at random moments, and before, within and after calls of the file system."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, get_args

from tests.faults.file_calls import Fault, FileCalls
from tests.faults.process import Ended, Process
from tests.faults.table import Outcome, outcome
from tests.faults.work import Bench, Undisturbed, Work

When = Literal["before", "within", "after"]
GRACE_SECONDS = 60.0
"""By then a process has ended whose partner was killed."""
WHOLE, ONE, TORCHRUN = "SIGKILL of all", "SIGKILL of one of two", "SIGKILL under torchrun"


def case(bench: Bench, number: int, draw: random.Random, desk: Path) -> Outcome | None:
    """One kill and the same command again; None if the command was faster."""
    shared = bench.shared and number % 4 == 0
    work = bench.shared[number // 4 % len(bench.shared)] if shared else draw.choice(bench.plain)
    undisturbed, store = bench.undisturbed(work), desk / "store"
    shutil.copytree(undisturbed.parents, store)
    if work.ranks > 1 and number % 24 == 0:
        return torchrun(bench, undisturbed, draw, desk)
    moment = draw.random() < 0.5
    prepare, call = None, ""
    if not moment:
        at, when = draw.randrange(len(undisturbed.calls)) + 1, draw.choice(get_args(When))
        call = f" {when} file call {at}, {undisturbed.calls[at - 1]}"
        prepare = FileCalls(store, Fault(at=at, kill=when)).install
    processes = bench.start(work, store, desk / "desk", prepare=prepare)
    struck = [draw.randrange(work.ranks)] if draw.random() < 0.6 else list(range(work.ranks))
    if moment:
        if work.ranks > 1:
            _wait_until_they_met(processes, store, work)
        time.sleep(draw.uniform(0, undisturbed.seconds / work.ranks))
        if any(process.ended() for process in processes):
            bench.wait(processes)
            return None
        for rank in struck:
            processes[rank].kill()
    fault = WHOLE if work.ranks == 1 or (moment and len(struck) == 2) else ONE
    ends = bench.wait(processes, GRACE_SECONDS)
    if not moment and ends[0].status == 0:
        return None  # with fewer calls than usual
    if problem := _survivors(ends, struck if moment else [0]):
        return outcome(fault, where(work), f"{work}{call}: {problem}")
    if spoiled := undisturbed.spoiled(store):
        return outcome(fault, where(work), f"{work}{call}: {spoiled}")
    problem = bench.ends_the_same(work, store, desk / "desk")
    return outcome(fault, where(work), problem and f"{work}{call}: {problem}")


def _wait_until_they_met(processes: list[Process], store: Path, work: Work) -> None:
    """Before, a process waits ten minutes for the others, and only a launcher knows that they will not come."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and not any(process.ended() for process in processes):
        if list(store.glob(f"{work.stage}/*/lock")):
            return
        time.sleep(0.005)


def where(work: Work) -> str:
    """For the table: the stage of what one process does, the engine of what two do."""
    return f"one process: {work.stage}" if work.ranks == 1 else f"two processes: {work.engine}"


def _survivors(ends: list[Ended], struck: list[int]) -> str | None:
    """What is wrong with how the processes ended; None if the killed ones died and the others said so and ended."""
    for rank, end in enumerate(ends):
        if rank in struck and end.status not in (-signal.SIGKILL, 0, 1):
            return f"process {rank}: {end.describe()}"
        if end.status is None or "Traceback" in end.said:
            return f"process {rank}, which was not killed: {end.describe()}"
    return None


def torchrun(bench: Bench, undisturbed: Undisturbed, draw: random.Random, desk: Path) -> Outcome | None:
    """The same under the real launcher, which imports everything anew: killed once the stage has begun."""
    work, store = undisturbed.work, desk / "store"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rnet"]
    with (desk / "said").open("wb") as said:
        agent = subprocess.Popen(
            [*command, *bench.arguments(work, store)], stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(store.glob(f"{work.stage}/*/status.json")) and agent.poll() is None:
            assert time.monotonic() < deadline, "torchrun did not start"
            time.sleep(0.01)
        time.sleep(draw.uniform(0, undisturbed.seconds))
        ranks = _children(agent.pid)
        if len(ranks) < 2 or agent.poll() is not None:
            return None
        whole = draw.random() < 0.3
        for pid in ranks if whole else [draw.choice(ranks)]:
            os.kill(pid, signal.SIGKILL)
        status = agent.wait(GRACE_SECONDS)
    finally:
        if agent.poll() is None:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
    if status == 0 and undisturbed.difference(store) is None:
        return None  # what was killed had just ended
    if status == 0:
        return outcome(TORCHRUN, where(work), f"{work}: torchrun ended with 0 although a process was killed")
    return outcome(TORCHRUN, where(work), bench.ends_the_same(work, store, desk / "desk"))


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
