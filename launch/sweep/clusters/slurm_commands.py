"""What Slurm's own commands say of jobs, and what they are told: squeue, sacct, scancel, scontrol.

A job's id is Slurm's number, with its cluster where a profile names clusters: 123 or north:123.
"""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Collection, Iterable, Sequence

from submitit.slurm.slurm import SlurmInfoWatcher

from launch.sweep.clusters.surroundings import outside_of_jobs
from launch.sweep.records.attempts import SILENT_SECONDS
from rnet.errors import UserError, first_line

logger = logging.getLogger(__name__)

COMMAND_SECONDS = 60

ENDED = {
    "COMPLETED": "done", "FAILED": "failed", "OUT_OF_MEMORY": "failed", "TIMEOUT": "timed out", "DEADLINE": "timed out",
    "NODE_FAIL": "lost", "BOOT_FAIL": "lost", "PREEMPTED": "preempted", "CANCELLED": "cancelled", "REVOKED": "lost",
    "LAUNCH_FAILED": "lost", "RECONFIG_FAIL": "lost",
}  # fmt: skip
"""Slurm's states of jobs that will not run again, as far as one word can say."""
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
PENDING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "POWER_UP_NODE", "EXPEDITING")
"""Any other state in the queue is one from which nothing goes on by itself (SPECIAL_EXIT, REQUEUE_HOLD), or unknown."""
NEVER = ("launch failed requeued held", "DependencyNeverSatisfied")
"""Reasons for which a task is pending for ever."""
NO_ACCOUNTING = "accounting storage is disabled"
"""What sacct says on a cluster that keeps no accounts."""
_SAID: set[str] = set()


def on_cluster(job: str, cluster: str | None) -> str:
    """A job's id, with the name of its cluster where one is known."""
    return f"{cluster}:{job}" if cluster else job


def cluster_of(job: str) -> str:
    """The name of the cluster in a job's id; "" for the cluster that Slurm's commands are for here."""
    return job.rpartition(":")[0]


def number_of(job: str) -> str:
    """Slurm's number of a job or task, without its cluster."""
    return job.rpartition(":")[2]


def find_jobs(names: Collection[str], clusters: str | None = None) -> dict[str, str]:
    """Array job ids by job name, for names that Slurm knows (waiting, running, or ended within its records)."""
    found: dict[str, str] = {}
    if not names:
        return found
    wanted = ",".join(names)
    for cluster in (clusters or "").split(","):
        queue = ask(["squeue", *_at(cluster), "-h", "-t", "all", "-o", "%j|%F", f"--name={wanted}"])
        accounts = _accounting([*_at(cluster), "-o", "JobName,JobID", f"--name={wanted}", "-S", "now-30days"])
        for line in (*queue.splitlines(), *accounts.splitlines()):
            name, bar, job = line.partition("|")
            if bar:
                found.setdefault(name.strip(), on_cluster(job.strip().partition("_")[0], cluster))
    return found


def array_states(jobs: Iterable[str]) -> dict[str, str]:
    """States of tasks by id ("123_4"): what squeue says of those that it still knows, else how sacct says they ended.

    "running long" is running for more than SILENT_SECONDS. Two calls for each cluster, whatever the number of arrays
    and tasks. A task that squeue does not know runs no more, whatever sacct still believes; one whose end nobody knows
    is missing. Raises UserError when squeue does not answer.
    """
    numbers: dict[str, set[str]] = {}
    for job in jobs:
        numbers.setdefault(cluster_of(job), set()).add(number_of(job))
    states: dict[str, str] = {}
    for cluster, ids in numbers.items():
        found = _states_at(cluster, ",".join(sorted(ids)))
        for task, word in found.items():
            job, _, number = task.partition("_")
            states[f"{on_cluster(job, cluster)}_{number}"] = word
    return states


def _states_at(cluster: str, ids: str) -> dict[str, str]:
    # With "all", squeue knows jobs for some minutes after their end, also where sacct does not answer.
    queue = ask(["squeue", *_at(cluster), "-h", "-t", "all", "-o", "%F|%K|%T|%M|%r", "-j", ids], missing_ok=True)
    lines = [line.split("|") for line in queue.splitlines() if line.count("|") >= 3]
    queued = "\n".join("|".join([f"{line[0]}_[{line[1]}]", *(*line[2:5], "")[:3]]) for line in lines)
    ended = _accounting([*_at(cluster), "-o", "JobID,State", "-j", ids])
    words = {task: word.split(" ")[0] for task, (word,) in _by_task(ended, ["State"]).items()}
    states = {task: ENDED[word] for task, word in words.items() if word in ENDED}
    for task, (word, elapsed, reason) in _by_task(queued, ["State", "Elapsed", "Reason"]).items():
        if word in RUNNING:
            states[task] = "running"
            if word == "RUNNING" and seconds_of(elapsed) > SILENT_SECONDS:
                states[task] = "running long"
        elif word in PENDING and reason.replace("_", " ") not in NEVER:
            states[task] = "pending"
        elif word in ENDED:
            states[task] = ENDED[word]
        else:  # what sacct says of an earlier incarnation says nothing of this one
            states.pop(task, None)
    return states


def _at(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _accounting(arguments: list[str]) -> str:
    """What sacct prints of allocations; nothing where it keeps no accounts, or does not answer.

    The queue says what runs, and rnet's own files how a cell ended; without sacct only the ends of killed tasks are
    less well known.
    """
    try:
        return ask(["sacct", "-n", "-P", "-X", *arguments])
    except UserError as error:
        if NO_ACCOUNTING not in str(error) and not str(error).startswith("no Slurm here: sacct"):
            words = f"{first_line(error)}; going on with squeue and rnet's own files"
            if words not in _SAID:
                _SAID.add(words)
                logger.warning("%s", words)
        return ""


def _by_task(text: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """The columns after the first of lines such as "12_[0-2,7%4]|PENDING", for each task that a line is about."""
    header = "|".join(["JobID", *columns])
    found = SlurmInfoWatcher().read_info(f"{header}\n{text}")
    return {task: [values.get(name, "") for name in columns] for task, values in found.items()}


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
    """Cancels jobs and array tasks, in one call for each cluster."""
    by_cluster: dict[str, list[str]] = {}
    for job in ids:
        by_cluster.setdefault(cluster_of(job), []).append(number_of(job))
    for cluster, numbers in by_cluster.items():
        ask(["scancel", *_at(cluster), *numbers], missing_ok=True)


def requeue_task(task: str, signal_name: str) -> None:
    """Starts the task that runs here again, unless Slurm does so itself or ends it: SIGTERM is how it does both."""
    if signal_name != "SIGTERM" or ask(["squeue", "-h", "-j", task, "-o", "%T"]).strip() == "RUNNING":
        ask(["scontrol", "requeue", task])


def max_array_size(clusters: str | None = None) -> int:
    """How many tasks Slurm allows in one array. clusters: which are asked, unless Slurm chooses among several."""
    at = _at(clusters) if clusters and "," not in clusters else []
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", ask(["scontrol", *at, "show", "config"]))
    return max(1, int(match[1]) - 1) if match else 1000


def ask(command: list[str], *, missing_ok: bool = False, unset: Collection[str] = ()) -> str:
    """What a command of Slurm prints. missing_ok: jobs that it does not know are none. unset: variables that it must
    not see. Raises UserError."""
    try:
        # Unset, Slurm cuts long lists of array elements short.
        whole = {**outside_of_jobs(), "SLURM_BITSTR_LEN": "0"}
        whole = {name: value for name, value in whole.items() if name not in unset}
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS, env=whole
        )
    except (FileNotFoundError, PermissionError):
        raise UserError(f"no Slurm here: {command[0]} is not on PATH; use cluster=local") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within {COMMAND_SECONDS} s; is the controller up?") from None
    if done.returncode and not (missing_ok and "nvalid job id" in done.stderr):
        raise UserError(f"{command[0]}: {in_one_line(done.stderr or done.stdout)}")
    return done.stdout


def in_one_line(text: str) -> str:
    """Slurm's own words in one line, without the program's name before each."""
    lines = [re.sub(r"^\w+: (error: )?", "", line) for line in text.strip().splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "failed without a message"
