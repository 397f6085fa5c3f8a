"""Job scripts and sbatch, through submitit. The only file that uses names that submitit keeps to itself."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedJobError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from launch.sweep.clusters.slurm_commands import in_one_line
from rnet.errors import UserError
from rnet.storage.files import make_folder

PICKLE = "task.pkl"


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
        delayed.dump(self.folder / PICKLE)
        self.parameters["map_count"] = count
        try:
            job: Any = self._submit_command(self._submitit_command_str)
        except FailedJobError as error:
            raise UserError(f"sbatch: {in_one_line(str(error))}") from None
        return str(job.job_id)


def job_script(settings: dict[str, Any], python: str | None, folder: Path, count: int) -> str:
    """What ArrayExecutor would give to sbatch for these parameters; needs no Slurm."""
    command = f"{python or shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return _make_sbatch_string(command, folder, map_count=count, **settings)


def find_pickle(folder: Path) -> str:
    """A line of a job script after which the array's task finds its pickle under the name that submitit expects."""
    return f"ln -sf {PICKLE} {shlex.quote(str(folder))}/${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}_submitted.pkl"


def requeue_after_a_crash(times: int) -> list[str]:
    """Job script lines after srun: a task that a signal killed (not one that failed) starts again, so many times."""
    return [
        "code=$?",
        f"if [ $code -gt 128 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt {times} ]; then",
        "  scontrol requeue ${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID} && sleep 60",
        "fi",
        "exit $code",
    ]
