"""One task of a submission, wherever it runs: its cells, one after the other.

    python -m launch.sweep.work.task ROOT TOKEN NUMBER JOB

JOB is the scheduler's id of the submission's job. The exit status is 0 if all cells have results, EXIT_FAILED if not,
and EXIT_STOPPED if the task was asked to stop: what it did is saved, and the same command goes on from there.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from launch.sweep.records.attempts import Worker
from launch.sweep.records.submissions import LIVE, read, task_id
from rnet.parallel.launch import Launch, launched
from rnet.storage.files import share_files

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: asked to stop, goes on later."""


def run_task(
    root: Path,
    token: str,
    number: int,
    *,
    job: str | None = None,
    restart: int = 0,
    node: str | None = None,
    requeue: Callable[[str], None] | None = None,
    launch: Launch | None = None,
) -> None:
    """Computes the cells of a submission's task. Exits with EXIT_FAILED if one of them has no result.

    job, restart, node: what a scheduler calls the task's job, how often it was started before, and the machine.
    requeue: called with the signal's name when the task was asked to stop and is to go on; exits with EXIT_STOPPED.
    launch: who this process is among those of the task; None to ask what started it.
    """
    from launch.sweep.work.cell import Job, run_cell  # brings torch
    from rnet.training.signals import Preempted

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    share_files(root)
    submission = read(root, token)
    if submission is None or submission.state not in LIVE:
        logger.warning("submission %s was %s; nothing to do", token, submission.state if submission else "removed")
        return
    task = None if job is None else task_id(job, number)
    worker = Worker(token=token, job=task, restart=restart, snapshot=submission.snapshot, node=node)
    complete = True
    for label in submission.tasks[number]:
        stage, _, cell_id = label.partition("/")
        own = submission.cells[label]
        cell = Job(
            stage=stage, id=cell_id, configuration=submission.configuration(label), parents=tuple(own["parents"]),
            dead=own["dead"],
        )  # fmt: skip
        try:
            complete &= run_cell(root, cell, worker, launch or launched()) == "done"
        except Preempted as error:
            logger.warning("%s", error)
            current = read(root, token)
            if requeue is not None and current is not None and current.state in LIVE:
                requeue(error.signal_name)
            raise SystemExit(EXIT_STOPPED) from None
    if not complete:
        raise SystemExit(EXIT_FAILED)


if __name__ == "__main__":
    run_task(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), job=sys.argv[4])
