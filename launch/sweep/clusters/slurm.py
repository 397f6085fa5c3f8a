"""Slurm, through submitit: arrays that survive their submitter, and what the scheduler says of jobs, as a hint."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedJobError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from launch.sweep.plan.resources import Profile, Shape
from launch.sweep.records.attempts import SILENT_SECONDS
from rnet.errors import UserError
from rnet.storage.files import make_folder

COMMAND_SECONDS = 60

ENDED = {
    "COMPLETED": "done", "FAILED": "failed", "OUT_OF_MEMORY": "failed", "TIMEOUT": "timed out", "DEADLINE": "timed out",
    "NODE_FAIL": "lost", "BOOT_FAIL": "lost", "PREEMPTED": "preempted", "CANCELLED": "cancelled",
}  # fmt: skip
"""Slurm's states of jobs that will not run again, as far as one word can say."""


class ArrayExecutor(SlurmExecutor):
    """submitit's executor, but one pickle for a whole array, put where its tasks look before sbatch is called.

    submitit moves a pickle for every task into place after sbatch; a submitter that dies in between leaves tasks that
    find nothing.
    """

    def submit_array_of(self, count: int, function: Callable[[], None]) -> str:
        """Submits an array of count tasks that all call the function; returns the array's job id.

        Raises UserError with Slurm's own message if it refuses.
        """
        make_folder(self.folder)
        delayed = DelayedSubmission(function)
        delayed.set_timeout(self.parameters["time"], 1_000_000)
        delayed.dump(self.folder / "task.pkl")
        self.parameters["map_count"] = count
        try:
            job: Any = self._submit_command(self._submitit_command_str)
        except FailedJobError as error:
            raise UserError(f"sbatch: {_message(str(error))}") from None
        return str(job.job_id)


def require_slurm() -> None:
    """Raises UserError if Slurm's commands are not there."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError(
            "no Slurm here: sbatch and srun are not on PATH; log in to a node of the cluster, or use cluster=local"
        )


def parameters(
    profile: Profile, shape: Shape, name: str, folder: Path, snapshot: Path | None, dependency: str | None
) -> dict[str, Any]:
    """What submitit's executor is given for an array."""
    pickle = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}_submitted.pkl"
    setup = [*profile.setup, f"ln -sf task.pkl {shlex.quote(str(folder))}/{pickle}"]
    if snapshot is not None:
        setup.append(f"export PYTHONPATH={shlex.quote(str(snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}")
    setup.append(f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{shape.cpus}}}")
    options: dict[str, Any] = {"requeue": True, "mem": f"{round(shape.memory_gb * 1024)}M"} | profile.sbatch
    if shape.gpus:
        options["gpus-per-task"] = shape.gpus
    found = {
        "job_name": name, "partition": profile.partition, "account": profile.account, "qos": profile.qos,
        "constraint": profile.constraint, "time": shape.minutes, "nodes": shape.nodes,
        "ntasks_per_node": shape.processes, "cpus_per_task": shape.cpus, "dependency": dependency, "wckey": None,
        "array_parallelism": profile.max_parallel, "signal_delay_s": profile.signal_seconds, "setup": setup,
        "teardown": _requeue_after_a_crash(profile.crash_requeues), "additional_parameters": options,
        "srun_args": ["--kill-on-bad-exit=1"], "stderr_to_stdout": True,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value is not None or key == "wckey"}


def _requeue_after_a_crash(times: int) -> list[str]:
    """Job script lines after srun: a task that a signal killed (not one that failed) starts again, so many times."""
    return [
        "code=$?",
        f"if [ $code -gt 128 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt {times} ]; then",
        "  scontrol requeue ${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID} && sleep 60",
        "fi",
        "exit $code",
    ]


def sbatch_text(profile: Profile, shape: Shape, name: str, folder: Path, count: int, dependency: str | None) -> str:
    """The job script of an array, for the plan; needs no Slurm."""
    settings = parameters(profile, shape, name, folder, None, dependency)
    python = profile.python or shlex.quote(sys.executable)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return _make_sbatch_string(command, folder, map_count=count, **settings)


def find_jobs(names: Iterable[str]) -> dict[str, str]:
    """Array job ids by job name, for names that Slurm knows (waiting, running, or ended within its records)."""
    wanted = ",".join(names)
    if not wanted:
        return {}
    found: dict[str, str] = {}
    for command in (
        ["squeue", "-h", "-o", "%j|%F", f"--name={wanted}"],
        ["sacct", "-n", "-P", "-X", "-o", "JobName,JobID", f"--name={wanted}", "-S", "now-30days"],
    ):
        for line in _ask(command).splitlines():
            name, _, job = line.partition("|")
            found.setdefault(name.strip(), job.strip().partition("_")[0])
    return found


def array_states(jobs: Iterable[str]) -> dict[str, str]:
    """States of tasks by id ("123_4"): pending or running from squeue, else how they ended, from sacct.

    "running long" is running for more than SILENT_SECONDS. Two calls, whatever the number of arrays and tasks. A job
    that neither knows is missing. Raises UserError when Slurm does not answer.
    """
    ids = ",".join(sorted(set(jobs)))
    if not ids:
        return {}
    states: dict[str, str] = {}
    for line in _ask(["sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ids]).splitlines():
        task, _, word = line.partition("|")
        for name in expand_tasks(task):
            states[name] = ENDED.get(word.split(" ")[0], "pending" if word.startswith("PENDING") else "running")
    for line in _ask(["squeue", "-h", "-o", "%F|%K|%T|%M", "-j", ids], missing_ok=True).splitlines():
        job, index, word, elapsed = line.split("|")
        for name in expand_tasks(f"{job}_[{index}]"):
            states[name] = "pending"
            if word == "RUNNING" and _seconds(elapsed) > SILENT_SECONDS:
                states[name] = "running long"
            elif word in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"):
                states[name] = "running"
    return states


def _seconds(text: str) -> int:
    """Slurm's [days-][[hours:]minutes:]seconds; 0 for anything else."""
    days, _, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in (days or "0", *clock.split(":"))]
    except ValueError:
        return 0
    seconds = 0
    for part in parts[1:]:
        seconds = 60 * seconds + part
    return 86_400 * parts[0] + seconds


def expand_tasks(text: str) -> list[str]:
    """ "12_[0-2,7%4]" as 12_0, 12_1, 12_2, 12_7; "12_3" and "12" as they are."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", text.strip())
    if match is None:
        return [text.strip()]
    found = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        found += [f"{match[1]}_{number}" for number in range(int(first), int(last or first) + 1)]
    return found


def cancel_jobs(jobs: Iterable[str]) -> None:
    """Cancels jobs and array tasks, in one call."""
    listed = list(jobs)
    if listed:
        _ask(["scancel", *listed], missing_ok=True)


def max_array_size() -> int:
    """How many tasks Slurm allows in one array."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]))
    return int(match[1]) - 1 if match else 1000


def _ask(command: list[str], *, missing_ok: bool = False) -> str:
    try:
        # Unset, Slurm cuts long lists of array elements short.
        whole = {**os.environ, "SLURM_BITSTR_LEN": "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, env=whole)
    except FileNotFoundError:
        raise UserError(f"no Slurm here: {command[0]} is not on PATH; use cluster=local") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within {COMMAND_SECONDS} s; is the controller up?") from None
    if done.returncode and not (missing_ok and "nvalid job id" in done.stderr):
        raise UserError(f"{command[0]}: {_message(done.stderr)}")
    return done.stdout


def _message(text: str) -> str:
    """Slurm's own words in one line, without the program's name before each."""
    lines = [re.sub(r"^\w+: (error: )?", "", line) for line in text.strip().splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "failed without a message"
