"""Sweeps on this machine, in processes.

    python -m launch.sweep.clusters.local ROOT TOKEN WORKERS CRASH_REQUEUES        (started by rnet sweep submit)

Each cell gets a process of its own, forked from one that has torch loaded, so that whatever happens to it happens to
it alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from launch.sweep.clusters.pool import Pool, Stop, announce, run_graph, task_exit_status

PRELOADED = [
    "launch.sweep.work.cell", "sklearn.datasets", "torch.utils.tensorboard", "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
]  # fmt: skip
"""What every cell imports sooner or later; imported once, before the cells' processes are forked."""


@dataclass(frozen=True, kw_only=True)
class Local(Pool):
    """Processes on this machine."""

    crash_requeues: int = 2
    """How often a cell whose process was killed by a signal is started again."""

    def command(self, root: Path, token: str) -> list[str]:
        """This file as a program."""
        workers = str(self.workers or default_workers())
        return [sys.executable, "-m", __name__, str(root), token, workers, str(self.crash_requeues)]


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


def default_workers() -> int:
    """One per GPU, or per core that this process may use."""
    return _gpu_count() or len(os.sched_getaffinity(0))


def _gpu_count() -> int:
    """GPUs of this machine that this process may use, without loading torch."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [path for path in Path("/dev").glob("nvidia[0-9]*")]
    return len(devices) if shown is None else min(len(devices), len([part for part in shown.split(",") if part]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run_local(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
