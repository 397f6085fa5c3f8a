"""Slurm: arrays that survive their submitter, and tasks that requeue themselves."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from launch.sweep.clusters.arrays import After, Array, make_arrays
from launch.sweep.clusters.base import Cluster
from launch.sweep.clusters.sbatch import ArrayExecutor, find_pickle, job_script, requeue_after_a_crash
from launch.sweep.clusters.slurm_commands import array_states, cancel_jobs, find_jobs, max_array_size, requeue_task
from launch.sweep.plan.plan import Plan
from launch.sweep.plan.resources import Shape
from launch.sweep.records.submissions import Submission, task_id
from launch.sweep.work.task import run_task
from rnet.config.values import shown
from rnet.errors import UserError
from rnet.parallel.launch import TOKEN

MEMORY_OPTIONS = {"mem", "mem-per-cpu", "mem-per-gpu"}
"""Ways to ask for memory, of which sbatch takes one."""
_RANDOM = "od -An -N32 -tx1 /dev/urandom | tr -d ' \\n'"
"""Shell for 64 hexadecimal digits."""
GPU_OPTIONS = {"gres", "gpus", "gpus-per-task", "gpus-per-node", "gpus-per-socket", "tres-per-task"}
"""Ways to ask for GPUs, of which a site may take only some."""


@dataclass(frozen=True, kw_only=True)
class Slurm(Cluster):
    """A Slurm cluster, or a part of one."""

    partition: str | None = None
    """Partition."""
    account: str | None = None
    """Account."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Node features, e.g. a100."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the task: modules, environments, variables."""
    python: str | None = None
    """The command that stands for python, e.g. apptainer exec --nv rnet.sif python; null: this interpreter."""
    max_parallel: int = 256
    """Tasks of an array that may run at once."""
    max_array_size: int = 1000
    """Tasks of one array; the smaller of this and what Slurm allows (MaxArraySize) counts."""
    max_submissions: int = 20
    """sbatch calls for one sweep. More calls make finer dependencies: victims share arrays only when they must."""
    signal_seconds: int = 90
    """How long before the time limit a task is told to save and requeue."""
    crash_requeues: int = 2
    """How often a task that was killed by a signal is started again by its own job script."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Any other sbatch option, by its long name; null or false takes out one of rnet's. One about memory (mem-per-cpu)
    or GPUs (gres) replaces memory_gb or gpus of resources."""

    shell_lines: ClassVar[tuple[str, ...]] = ("setup",)

    def __post_init__(self) -> None:
        for key, value in self.sbatch.items():
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", key) or isinstance(value, list):
                raise UserError(f"sbatch.{key}={shown(value)} must be one option by its long name, e.g. mail-type: END")
        for name in ("max_parallel", "max_array_size", "max_submissions", "signal_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")

    def require(self) -> None:
        """Raises UserError if Slurm's commands are not there."""
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError(
                "no Slurm here: sbatch and srun are not on PATH; log in to a node of the cluster, or use cluster=local"
            )

    def arrays(self, plan: Plan, wanted: Collection[int], *, ask: bool = True) -> list[Array]:
        """One array for each stage and shape, split below MaxArraySize."""
        size = min(self.max_array_size, max_array_size()) if ask else self.max_array_size
        return make_arrays(plan, wanted, max_size=size, max_arrays=self.max_submissions)

    def start(self, root: Path, submission: Submission, array: Array, after: After) -> str:
        """Calls sbatch and returns the array's job id."""
        folder = _folder(root, submission.token)
        executor = ArrayExecutor(folder, python=self.python)
        code = submission.code(root)
        executor.update_parameters(**self._parameters(array.shape, submission.name, folder, code, after))
        return executor.submit_array_of(len(array.tasks), SlurmTask(root, submission.token))

    def states(self, submissions: Sequence[Submission]) -> dict[str, str]:
        """What squeue and sacct say, in two calls."""
        return array_states(submission.job for submission in submissions if submission.job)

    def cancel(self, ids: Sequence[str]) -> None:
        """Calls scancel once."""
        cancel_jobs(ids)

    def find(self, names: Collection[str]) -> dict[str, str]:
        """Looks for job names in squeue and sacct."""
        return find_jobs(names)

    def log(self, root: Path, submission: Submission, number: int) -> Path | None:
        """Where submitit has Slurm write what the task's first process prints."""
        return _folder(root, submission.token) / f"{submission.job}_{number}_0_log.out" if submission.job else None

    def script(self, root: Path, array: Array) -> str:
        """The job script."""
        folder = _folder(root, "TOKEN")
        settings = self._parameters(array.shape, f"rnet-{array.stage}-TOKEN", folder, None, {})
        return job_script(settings, self.python, folder, len(array.tasks))

    def _parameters(self, shape: Shape, name: str, folder: Path, code: Path | None, after: After) -> dict[str, Any]:
        """What submitit's executor is given for an array."""
        if not str(folder).isprintable():
            raise UserError(
                f"the store's path {str(folder)!r} has control characters, which no job script can hold; rename it"
            )
        setup = [*self.setup, find_pickle(folder)]
        if code is not None:
            here = shlex.quote(os.getcwd())  # where plugins of one file are
            setup.append(f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}:{here}")
        setup.append(f"export {TOKEN}=$({_RANDOM})")  # made in the job: no file and no command line shows it
        setup.append(f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{shape.cpus}}}")
        found = {
            "job_name": name, "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "time": shape.minutes, "nodes": shape.nodes,
            "ntasks_per_node": shape.processes, "cpus_per_task": shape.cpus, "dependency": dependency(after),
            "wckey": None, "array_parallelism": self.max_parallel, "signal_delay_s": self.signal_seconds,
            "setup": setup, "teardown": requeue_after_a_crash(self.crash_requeues),
            "additional_parameters": self._options(shape),
            "srun_args": ["--kill-on-bad-exit=1"], "stderr_to_stdout": True,
        }  # fmt: skip
        return {key: value for key, value in found.items() if value is not None or key == "wckey"}

    def _options(self, shape: Shape) -> dict[str, Any]:
        """sbatch's options by long name: ours, but for what the profile asks for in another way; null takes one out."""
        own = {key.replace("_", "-"): value for key, value in self.sbatch.items()}
        options: dict[str, Any] = {"requeue": True}
        if not own.keys() & MEMORY_OPTIONS:
            options["mem"] = f"{round(shape.memory_gb * 1024)}M"
        if shape.gpus and not own.keys() & GPU_OPTIONS:
            options["gpus-per-task"] = shape.gpus
        options |= own
        if options["requeue"] is False:
            options["no-requeue"] = True
        return {key: value for key, value in options.items() if value is not None and value is not False}


def dependency(after: After) -> str | None:
    """afterany on the tasks; None if there are none.

    After any end, not only success: a child that finds no parent says so and ends, where afterok would leave it waiting
    for ever and one failed parent would stop the children of all.
    """
    terms = []
    for job, numbers in after.items():
        terms += [task_id(job, number) for number in numbers] or [job]
    return "afterany:" + ":".join(terms) if terms else None


class SlurmTask:
    """What submitit pickles and every task of an array calls; all of a task is in the submission's record."""

    def __init__(self, root: Path, token: str) -> None:
        self.root, self.token = root, token

    def __call__(self) -> None:
        """Computes the cells of this array element; rank 0 requeues it when it was asked to stop."""
        job, number = os.environ["SLURM_ARRAY_JOB_ID"], int(os.environ["SLURM_ARRAY_TASK_ID"])
        first = int(os.environ.get("SLURM_PROCID", 0)) == 0
        run_task(
            self.root,
            self.token,
            number,
            job=job,
            restart=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
            node=os.environ.get("SLURMD_NODENAME"),
            requeue=partial(requeue_task, task_id(job, number)) if first else None,
        )


def _folder(root: Path, token: str) -> Path:
    return root / "jobs" / token
