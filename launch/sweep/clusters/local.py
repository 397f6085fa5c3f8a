"""Sweeps on this machine, in processes.

    python -m launch.sweep.clusters.local ROOT TOKEN WORKERS CRASH_REQUEUES        (started by rnet sweep submit)

Each cell gets a process of its own, forked from one that has torch loaded, so that whatever happens to it happens to
it alone.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import queue
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

from launch.sweep.clusters.pool import Pool, Stop, announce, coming, run_graph, task_exit_status

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

    def command(self, root: Path, token: str, variables: Mapping[str, str]) -> list[str]:
        """This file as a program."""
        workers = str(self.workers or default_workers())
        return [sys.executable, "-m", __name__, str(root), token, workers, str(self.crash_requeues)]


def _run_child(root: Path, token: str, number: int, gpu: str | None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    raise SystemExit(task_exit_status(root, token, number))


def run_local(root: Path, token: str, workers: int, crash_requeues: int) -> None:
    """Computes a submission's cells in processes of this machine and returns when none is left."""
    record = announce(root, token)
    gpus = visible_gpus()
    slots: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for number in range(workers):
        slots.put(gpus[number % len(gpus)] if gpus else None)
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
        run_graph(record, workers, lambda number: threads.submit(run, number), stop, partial(coming, root, token))


def default_workers() -> int:
    """One per GPU, or per core that this process may use."""
    return len(visible_gpus()) or len(os.sched_getaffinity(0))


def visible_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> list[str]:
    """GPUs, or slices of one, that this process may use, each by the name that CUDA_VISIBLE_DEVICES has for it.

    Names that are there (3, GPU-..., MIG-...) are handed on as they are: a scheduler chose them. Without loading torch.
    """
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    count = len(list(devices.glob("nvidia[0-9]*")))
    if shown is None:
        return [str(number) for number in range(count)]
    names = [name.strip() for name in shown.split(",")]
    return [name for name in itertools.takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), names) if count]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run_local(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
