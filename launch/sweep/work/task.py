"""One task of a submission, wherever it runs: its cells one after the other, and requeueing itself if asked to stop."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from launch.sweep.records.attempts import Worker
from launch.sweep.records.submissions import LIVE, Submission, read
from rnet.storage.files import share_files

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: asked to stop, goes on later."""


class ArrayTask:
    """What submitit pickles and every task of an array calls; all of a task is in the submission's record."""

    def __init__(self, root: Path, token: str) -> None:
        self.root, self.token = root, token

    def __call__(self) -> None:
        """Computes the cells of this array element. Exits with EXIT_FAILED if one of them has no result."""
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        restart = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        states = run_task(self.root, self.token, int(os.environ["SLURM_ARRAY_TASK_ID"]), job=job, restart=restart)
        if any(state != "done" for state in states):
            raise SystemExit(EXIT_FAILED)


def run_task(root: Path, token: str, number: int, *, job: str | None = None, restart: int = 0) -> list[str]:
    """Computes the cells of a submission's task and returns the states they are left in.

    Ends the process with EXIT_STOPPED when asked to stop, after requeueing the task if Slurm does not do so itself.
    """
    from launch.sweep.work.cell import Job, run_cell  # brings torch
    from rnet.training.signals import Preempted

    share_files(root)
    submission = read(root, token)
    if submission is None or submission.state not in LIVE:
        logger.warning("submission %s was %s; nothing to do", token, submission.state if submission else "removed")
        return []
    worker = Worker(token=token, job=job, restart=restart, snapshot=submission.snapshot)
    states = []
    for label in submission.tasks[number]:
        stage, _, cell_id = label.partition("/")
        own = submission.jobs[label]
        cell = Job(
            stage=stage, id=cell_id, overrides=(*submission.common, *own["overrides"]), parents=tuple(own["parents"]),
            config_dir=submission.config_dir, dead=own["dead"],
        )  # fmt: skip
        try:
            states.append(run_cell(root, cell, worker))
        except Preempted as error:
            logger.warning("%s", error)
            if job is not None and _should_requeue(root, submission, job, error.signal_name):
                _requeue()
            raise SystemExit(EXIT_STOPPED) from None
    return states


def _should_requeue(root: Path, submission: Submission, job: str, signal_name: str) -> bool:
    """Rank 0 requeues after SIGUSR2 (preemption, time limit). SIGTERM is also how Slurm cancels and requeues itself."""
    current = read(root, submission.token)
    if int(os.environ.get("SLURM_PROCID", 0)) != 0 or current is None or current.state not in LIVE:
        return False
    if signal_name != "SIGTERM":
        return True
    asked = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, timeout=60)
    return asked.stdout.strip() == "RUNNING"


def _requeue() -> None:
    from submitit import JobEnvironment

    JobEnvironment()._requeue(0)
