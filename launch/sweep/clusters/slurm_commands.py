"""What Slurm's own commands say of jobs, and what they are told: squeue, sacct, scancel, scontrol."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Sequence

from submitit.slurm.slurm import SlurmInfoWatcher

from launch.sweep.records.attempts import SILENT_SECONDS
from rnet.errors import UserError

COMMAND_SECONDS = 60

ENDED = {
    "COMPLETED": "done", "FAILED": "failed", "OUT_OF_MEMORY": "failed", "TIMEOUT": "timed out", "DEADLINE": "timed out",
    "NODE_FAIL": "lost", "BOOT_FAIL": "lost", "PREEMPTED": "preempted", "CANCELLED": "cancelled",
}  # fmt: skip
"""Slurm's states of jobs that will not run again, as far as one word can say."""
NO_ACCOUNTING = "accounting storage is disabled"
"""What sacct says on a cluster that keeps no accounts."""
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED")


def find_jobs(names: Collection[str]) -> dict[str, str]:
    """Array job ids by job name, for names that Slurm knows (waiting, running, or ended within its records)."""
    if not names:
        return {}
    wanted = ",".join(names)
    found: dict[str, str] = {}
    queue = ask(["squeue", "-h", "-o", "%j|%F", f"--name={wanted}"])
    accounts = _accounting(["-o", "JobName,JobID", f"--name={wanted}", "-S", "now-30days"])
    for line in (*queue.splitlines(), *accounts.splitlines()):
        name, _, job = line.partition("|")
        found.setdefault(name.strip(), job.strip().partition("_")[0])
    return found


def array_states(jobs: Iterable[str]) -> dict[str, str]:
    """States of tasks by id ("123_4"): pending or running from squeue, else how they ended, from sacct.

    "running long" is running for more than SILENT_SECONDS. Two calls, whatever the number of arrays and tasks. A task
    that squeue does not know runs no more, whatever sacct still believes; one whose end nobody knows is missing. Raises
    UserError when Slurm does not answer.
    """
    ids = ",".join(sorted(set(jobs)))
    if not ids:
        return {}
    queue = ask(["squeue", "-h", "-o", "%F|%K|%T|%M", "-j", ids], missing_ok=True)
    lines = [line.split("|") for line in queue.splitlines() if line.count("|") == 3]
    queued = "\n".join(f"{job}_[{numbers}]|{state}|{elapsed}" for job, numbers, state, elapsed in lines)
    ended = _accounting(["-o", "JobID,State", "-j", ids])
    words = {task: word.split(" ")[0] for task, (word,) in _by_task(ended, ["State"]).items()}
    states = {task: ENDED[word] for task, word in words.items() if word in ENDED}
    for task, (word, elapsed) in _by_task(queued, ["State", "Elapsed"]).items():
        states[task] = "running" if word in RUNNING else "pending"
        if word == "RUNNING" and seconds_of(elapsed) > SILENT_SECONDS:
            states[task] = "running long"
    return states


def _accounting(arguments: list[str]) -> str:
    """What sacct prints of allocations; nothing on a cluster that keeps no accounts."""
    try:
        return ask(["sacct", "-n", "-P", "-X", *arguments])
    except UserError as error:
        if NO_ACCOUNTING in str(error) or str(error).startswith("no Slurm here: sacct"):
            return ""
        raise


def _by_task(text: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """The columns after the first of lines such as "12_[0-2,7%4]|PENDING", for each task that a line is about."""
    header = "|".join(["JobID", *columns])
    found = SlurmInfoWatcher().read_info(f"{header}\n{text}")
    return {task: [values[name] for name in columns] for task, values in found.items()}


def seconds_of(text: str) -> int:
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


def cancel_jobs(ids: Sequence[str]) -> None:
    """Cancels jobs and array tasks, in one call."""
    if ids:
        ask(["scancel", *ids], missing_ok=True)


def requeue_task(task: str, signal_name: str) -> None:
    """Starts the task that runs here again, unless Slurm does so itself or ends it: SIGTERM is how it does both."""
    if signal_name != "SIGTERM" or ask(["squeue", "-h", "-j", task, "-o", "%T"]).strip() == "RUNNING":
        ask(["scontrol", "requeue", task])


def max_array_size() -> int:
    """How many tasks Slurm allows in one array."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]))
    return int(match[1]) - 1 if match else 1000


def ask(command: list[str], *, missing_ok: bool = False) -> str:
    """What a command of Slurm prints. missing_ok: jobs that it does not know are none. Raises UserError."""
    try:
        # Unset, Slurm cuts long lists of array elements short.
        whole = {**os.environ, "SLURM_BITSTR_LEN": "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, env=whole)
    except FileNotFoundError:
        raise UserError(f"no Slurm here: {command[0]} is not on PATH; use cluster=local") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within {COMMAND_SECONDS} s; is the controller up?") from None
    if done.returncode and not (missing_ok and "nvalid job id" in done.stderr):
        raise UserError(f"{command[0]}: {in_one_line(done.stderr)}")
    return done.stdout


def in_one_line(text: str) -> str:
    """Slurm's own words in one line, without the program's name before each."""
    lines = [re.sub(r"^\w+: (error: )?", "", line) for line in text.strip().splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "failed without a message"
