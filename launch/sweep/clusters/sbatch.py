"""Job scripts and sbatch. The only file that uses names that submitit keeps to itself."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission
from submitit.slurm.slurm import _as_sbatch_flag, _make_sbatch_string

from launch.sweep.clusters.base import Full
from launch.sweep.clusters.options import MEMORY_OPTIONS
from launch.sweep.clusters.slurm_commands import ask, on_cluster
from rnet.errors import UserError
from rnet.storage.files import make_folder

PICKLE = "task.pkl"
_JOBS = tuple(
    re.compile(rf"{before}(?P<id>[0-9]+)(?:(?: on cluster |;)(?P<cluster>\S+))?{after}", re.MULTILINE)
    for before, after in (("^Submitted batch job ", ""), ("^", r"\s*$"), ("job ", r"[.\s]*$"))
)
"""Submitted batch job 12 on cluster x; where sbatch is told to be terse, 12;x; else a site's own words that end so.
Other lines may begin with numbers or speak of jobs."""
_FULL = (
    "AssocGrpSubmitJobs", "QOSGrpSubmitJobs", "MaxSubmitJob",
    "job submit limit", "temporarily unable to accept job", "Resource temporarily unavailable",
)  # fmt: skip
"""What sbatch says when a user, an account or the whole cluster has as many jobs as it may have."""
_LIMIT = re.compile(r"\b(?:QOS|Assoc)[A-Z]\w+")
"""A limit's own name, where sbatch gives one. What it says besides speaks of several: job submit limit, size, time."""

_VARIABLES = {"time": "timelimit", "mem": "mem-per-node"}
"""Options whose SBATCH_ variable has another name."""


def submit_array(
    script: str, folder: Path, function: Callable[[], None], minutes: int, clusters: str | None = None
) -> str:
    """Submits a job script whose tasks all call the function; returns the array's job id, with its cluster if one of
    several was asked for.

    One pickle for the whole array is where its tasks look before sbatch is called: submitit moves one for every task
    into place after it, and a submitter that dies in between leaves tasks that find nothing. Raises UserError with
    Slurm's own message if it refuses, Full if only for now.
    """
    make_folder(folder)
    delayed = DelayedSubmission(function)
    delayed.set_timeout(minutes, 1_000_000)
    delayed.dump(folder / PICKLE)
    path = folder / "job.sh"
    path.write_text(script)
    try:
        said = ask(["sbatch", *([f"--clusters={clusters}"] if clusters else []), str(path)], unset=overriding(script))
    except UserError as error:
        limits = " ".join(_LIMIT.findall(str(error))) or str(error)
        raise (Full if any(words in limits for words in _FULL) else UserError)(error) from None
    found = next((match for form in _JOBS if (match := form.search(said))), None)
    if found is None:
        raise UserError(f"sbatch: it names no job: {said.strip()!r}")
    return on_cluster(found["id"], (found["cluster"] or clusters) if clusters else None)


def overriding(script: str) -> set[str]:
    """The SBATCH_ variables that sbatch would prefer to what the script says. Of memory it takes one word only."""
    options = set(re.findall(r"^#SBATCH --([\w-]+)", script, re.MULTILINE))
    for several in (MEMORY_OPTIONS, ("requeue", "no-requeue")):
        options |= set(several) if options & set(several) else set()
    return {f"SBATCH_{_VARIABLES.get(name, name).replace('-', '_').upper()}" for name in options}


def job_script(
    settings: Mapping[str, Any], own: Mapping[str, Any], python: str | None, folder: Path, count: int
) -> str:
    """The script for an array of count tasks. settings: as submitit names them.

    own: options of sbatch by their long names; each replaces one of rnet's, null and false take it out.
    """
    command = f"{python or shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    lines = _make_sbatch_string(command, folder, map_count=count, **settings).split("\n")
    replaced = re.compile(rf"#SBATCH --({'|'.join(map(re.escape, own)) or '-'})(=.*)?")
    kept = [line for line in lines if not replaced.fullmatch(line)]
    flags = [_as_sbatch_flag(key, value) for key, value in own.items() if value is not None and value is not False]
    place = kept.index("# Parameters") + 1
    return "\n".join([*kept[:place], *flags, *kept[place:]])


def find_pickle(folder: Path) -> str:
    """A line of a job script after which the array's task finds its pickle under the name that submitit expects."""
    return f"ln -sf {PICKLE} {shlex.quote(str(folder))}/${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}_submitted.pkl"


def requeue_after_a_crash(times: int) -> list[str]:
    """Job script lines after srun: a task that a signal killed (not one that failed) starts again, so many times."""
    again = [
        f"if [ $code -gt 128 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt {times} ]; then",
        "  scontrol requeue ${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID} && sleep 60",
        "fi",
    ]
    return ["code=$?", *(again if times else []), "exit $code"]
