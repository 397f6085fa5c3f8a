"""Sweeps without Slurm: a process in the background hands a submission's cells, parents first, to workers.

    python -m launch.sweep.clusters.local ROOT TOKEN          (started by rnet sweep submit with cluster=local)

Each cell gets a process of its own, forked from one that has torch loaded, so that whatever happens to it happens to
it alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from launch.sweep.plan.resources import Profile
from launch.sweep.records import submissions
from launch.sweep.records.submissions import Submission
from launch.sweep.work.task import EXIT_FAILED, run_task
from rnet.errors import UserError
from rnet.storage.files import make_folder

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
PRELOADED = [
    "launch.sweep.work.cell", "sklearn.datasets", "torch.utils.tensorboard", "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
]  # fmt: skip
"""What every cell imports sooner or later; imported once, before the cells' processes are forked."""


def start_pool(profile: Profile, root: Path, submission: Submission) -> int:
    """Starts the pool in the background and returns the id of the process that hands out cells.

    Raises UserError, with what it said, if it does not come up.
    """
    log = root / "jobs" / submission.token / "pool.log"
    make_folder(log.parent)
    python = [sys.executable]
    workers = profile.workers or _default_workers()
    if profile.kind == "mpi":
        mpiexec = [part.format(ranks=workers + 1) for part in profile.mpiexec]
        beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # where its wheel puts it
        mpiexec[0] = shutil.which(mpiexec[0], path=beside) or mpiexec[0]
        python = [*mpiexec, *python, "-m", "mpi4py.futures"]
    module = "launch.sweep.clusters.mpi" if profile.kind == "mpi" else "launch.sweep.clusters.local"
    command = [*python, "-m", module, str(root), submission.token, str(workers), str(profile.crash_requeues)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        with log.open("ab") as file:
            started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=environment
            )
    except OSError as error:
        raise UserError(f"cannot start {command[0]}: {error.strerror}; see mpiexec in the cluster's profile") from None
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        record = submissions.read(root, submission.token)
        if record is not None and record.job is not None:
            return int(record.job.removeprefix("pid:"))
        if started.poll() is not None:
            break
        time.sleep(0.05)
    lines = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise UserError(f"the pool did not start: {' | '.join(lines) or 'it said nothing'} ({log})")


def announce(root: Path, token: str) -> Submission:
    """Records that this process hands out the submission's cells."""
    record = submissions.read(root, token)
    assert record is not None, f"no submission {token}"
    record.job, record.state = f"pid:{os.getpid()}", "submitted"
    submissions.save(root, record)
    return record


class Stop:
    """Inside, SIGTERM and SIGINT end the handing out; on_stop is called once."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self.asked = False
        self._on_stop = on_stop
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            self._on_stop()


def run_graph(record: Submission, workers: int, start: Callable[[int], Future[int]], stop: Stop) -> None:
    """Starts the record's tasks, each after those with parents of its cells, at most `workers` at once.

    A task whose parent failed is started too: it records that it is blocked, and ends.
    """
    task_of = {label: number for number, labels in enumerate(record.tasks) for label in labels}
    waits = {
        number: {task_of[p] for label in labels for p in record.jobs[label]["parents"] if p in task_of} - {number}
        for number, labels in enumerate(record.tasks)
    }
    children: dict[int, list[int]] = {}
    for number, parents in waits.items():
        for parent in parents:
            children.setdefault(parent, []).append(number)
    ready = [number for number, parents in waits.items() if not parents]
    running: dict[Future[int], int] = {}
    ready.reverse()
    while (ready and not stop.asked) or running:
        while ready and len(running) < workers and not stop.asked:
            number = ready.pop()
            running[start(number)] = number
        for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
            number = running.pop(future)
            if future.exception() is not None:
                logger.error("task %d: %s", number, future.exception())
            for child in children.get(number, ()):
                waits[child].discard(number)
                if not waits[child]:
                    ready.append(child)


def task_exit_status(root: Path, token: str, number: int) -> int:
    """Runs a task in this process; 0, or what it would have exited with."""
    try:
        states = run_task(root, token, number)
    except SystemExit as error:
        return int(error.code or 0)
    return 0 if all(state == "done" for state in states) else EXIT_FAILED


def _run_child(root: Path, token: str, number: int, gpu: int | None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    raise SystemExit(task_exit_status(root, token, number))


def run_local(root: Path, token: str, workers: int, crash_requeues: int) -> None:
    """Computes a submission's cells in processes of this machine and returns when none is left."""
    record = announce(root, token)
    gpus = _gpu_count()
    slots: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for number in range(workers):
        slots.put(number % gpus if gpus else None)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    children: set[BaseProcess] = set()

    def terminate() -> None:
        for child in list(children):
            child.terminate()

    stop = Stop(terminate)

    def run(number: int) -> int:
        slot = slots.get()
        try:
            for _ in range(1 + crash_requeues):
                child = context.Process(target=_run_child, args=(root, token, number, slot))
                child.start()
                children.add(child)
                child.join()
                children.discard(child)
                if child.exitcode is None or child.exitcode >= 0 or stop.asked:
                    break
            return child.exitcode or 0
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(workers) as threads:
        run_graph(record, workers, lambda number: threads.submit(run, number), stop)


def _default_workers() -> int:
    return _gpu_count() or len(os.sched_getaffinity(0))


def _gpu_count() -> int:
    """GPUs of this machine that this process may use, without loading torch."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [path for path in Path("/dev").glob("nvidia[0-9]*")]
    return len(devices) if shown is None else min(len(devices), len([part for part in shown.split(",") if part]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run_local(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
