"""A scheduler that rnet does not know: PBS as far as a sweep needs it, in one file, named in a profile.

    kind: tests.launch.sweep.clusters.stub_pbs:Pbs
    spool: /tmp/spool

Its qsub is this file as a program in the background. It waits for other jobs, runs the tasks of an array one after the
other, and writes what becomes of each into SPOOL/JOB.json.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.sweep.clusters.arrays import After, Array, make_arrays
from launch.sweep.clusters.base import Cluster
from launch.sweep.plan.plan import Plan
from launch.sweep.records.submissions import Submission, split_task, task_id
from launch.sweep.work.task import EXIT_FAILED


@dataclass(frozen=True, kw_only=True)
class Pbs(Cluster):
    """A PBS server, or what a test needs of one."""

    spool: str
    """The folder where the server writes."""

    poll_seconds = 0.2

    def arrays(self, plan: Plan, wanted: Collection[int], *, ask: bool = True) -> list[Array]:
        return make_arrays(plan, wanted, max_size=100, max_arrays=20)

    def start(self, root: Path, submission: Submission, array: Array, after: After) -> str:
        job = f"{len(list(Path(self.spool).glob('*.json')))}[].server_1"
        self._write(job, {"name": submission.name, "states": ["pending"] * len(array.tasks)})
        needed = [task_id(before, number) for before, numbers in after.items() for number in numbers or [0]]
        command = [sys.executable, "-m", __name__, self.spool, job, str(root), submission.token, *needed]
        path = os.pathsep.join([str(submission.code(root)), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path}
        server = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, env=environment)
        self._write(job, {**self._read(job), "pid": server.pid})
        return job

    def states(self, submissions: Sequence[Submission]) -> dict[str, str]:
        jobs = [submission.job or "" for submission in submissions]
        return {task_id(job, n): word for job in jobs for n, word in enumerate(self._read(job)["states"])}

    def cancel(self, ids: Sequence[str]) -> None:
        for job in ids:
            os.killpg(self._read(job)["pid"], signal.SIGTERM)

    def find(self, names: Collection[str]) -> dict[str, str]:
        jobs = [path.stem for path in Path(self.spool).glob("*.json")]
        return {name: job for job in jobs if (name := self._read(job)["name"]) in names}

    def script(self, root: Path, array: Array) -> str:
        return f"#PBS -J 0-{len(array.tasks) - 1}"

    def _read(self, job: str) -> dict:
        return json.loads((Path(self.spool) / f"{job}.json").read_text())

    def _write(self, job: str, document: dict) -> None:
        path = Path(self.spool) / f"{job}.json"
        path.with_suffix(".new").write_text(json.dumps(document))
        path.with_suffix(".new").rename(path)


def serve(spool: str, job: str, root: str, token: str, *needed: str) -> None:
    """Runs the tasks of a job after those that are needed have ended."""
    server = Pbs(kind="", spool=spool)
    while "pid" not in server._read(job) or any(
        server._read(before)["states"][number] in ("pending", "running") for before, number in map(split_task, needed)
    ):
        time.sleep(0.05)
    for number in range(len(server._read(job)["states"])):
        _say(server, job, number, "running")
        code = subprocess.call([sys.executable, "-m", "launch.sweep.work.task", root, token, str(number), job])
        _say(server, job, number, {0: "done", EXIT_FAILED: "failed"}.get(code, "lost"))


def _say(server: Pbs, job: str, number: int, word: str) -> None:
    document = server._read(job)
    document["states"][number] = word
    server._write(job, document)


if __name__ == "__main__":
    serve(*sys.argv[1:])
