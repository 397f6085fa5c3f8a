"""Slurm: arrays that survive their submitter, and tasks that requeue themselves."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from launch.sweep.clusters.arrays import After, Array, make_arrays
from launch.sweep.clusters.base import Cluster
from launch.sweep.clusters.offers import check_need, read_offers
from launch.sweep.clusters.options import check_ways, need_of, own_options, resource_options
from launch.sweep.clusters.sbatch import find_pickle, job_script, requeue_after_a_crash, submit_array
from launch.sweep.clusters.slurm_commands import (
    array_states,
    cancel_jobs,
    cluster_of,
    find_jobs,
    max_array_size,
    number_of,
    on_cluster,
    requeue_task,
)
from launch.sweep.clusters.surroundings import check_no_other_cluster, outside_of_jobs
from launch.sweep.plan.plan import Plan
from launch.sweep.plan.resources import Shape
from launch.sweep.records.submissions import Submission, task_id
from launch.sweep.work.task import run_task
from rnet.errors import UserError
from rnet.parallel.launch import TOKEN

logger = logging.getLogger(__name__)

_RANDOM = "od -An -N32 -tx1 /dev/urandom | tr -d ' \\n'"
"""Shell for 64 hexadecimal digits."""


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
    clusters: str | None = None
    """Where one controller is asked for several clusters (sbatch --clusters): one of them, or some with commas between
    them, of which Slurm chooses one for the whole sweep."""
    gpu_option: str = "gpus-per-task"
    """How the site wants gpus of resources asked for: gpus-per-task, gpus-per-node, gpus or gres."""
    gpu_type: str | None = None
    """The site's name for the GPUs to use (a100, 1g.10gb), where it has several kinds; null: any."""
    memory_option: str = "mem"
    """How the site wants memory_gb of resources asked for: mem, mem-per-cpu, mem-per-gpu; none: not at all."""
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
    """Any other sbatch option, by its long name; it replaces one of rnet's, and null or false takes that out. One about
    memory (mem-per-cpu) or GPUs (gres) replaces memory_gb or gpus of resources, for all stages."""

    shell_lines: ClassVar[tuple[str, ...]] = ("setup",)

    def __post_init__(self) -> None:
        own_options(self.sbatch)
        check_ways(self.memory_option, self.gpu_option)
        for name in ("max_parallel", "max_array_size", "max_submissions", "signal_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")

    def require(self) -> None:
        """Raises UserError if Slurm's commands are not there."""
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError(
                "no Slurm here: sbatch and srun are not on PATH; log in to a node of the cluster, or use cluster=local"
            )
        if self.clusters is None:
            check_no_other_cluster()

    def arrays(self, plan: Plan, wanted: Collection[int], *, ask: bool = True) -> list[Array]:
        """One array for each stage and shape, split below MaxArraySize."""
        size = self.max_array_size
        if ask:
            with suppress(UserError):  # a site that does not tell: sbatch says it
                size = min(size, max_array_size(self.clusters))
        return make_arrays(plan, wanted, max_size=size, max_arrays=self.max_submissions)

    def check(self, arrays: Sequence[Array]) -> None:
        """Asks scontrol what nodes and partitions there are; a site that does not tell is not checked."""
        if self.clusters and "," in self.clusters:
            return  # Slurm chooses one of them only now
        try:
            offers = read_offers(self.clusters)
        except UserError:
            return
        persons = outside_of_jobs()
        own = {
            name: getattr(self, name) or persons.get(f"SBATCH_{name.upper()}") for name in ("partition", "constraint")
        }
        partition, constraint = (self._own.get(name, value) for name, value in own.items())
        for array in arrays:
            need = need_of(array.stage, array.shape, self._own, self.memory_option, self.gpu_type, array.packing)
            check_need(need, offers, str(partition or "") or None, str(constraint or "") or None)

    def start(self, root: Path, submission: Submission, array: Array, after: After) -> str:
        """Calls sbatch and returns the array's job id."""
        folder = _folder(root, submission.token)
        clusters = self._clusters(after)
        settings = self._settings(array.shape, submission.name, folder, submission.code(root), after)
        script = job_script(settings, self._own, self.python, folder, len(array.tasks))
        task = SlurmTask(root, submission.token, self._requeues, self.clusters is not None)
        job = submit_array(script, folder, task, array.shape.minutes, clusters)
        self._home[:] = [cluster_of(job)]
        return job

    def states(self, submissions: Sequence[Submission]) -> dict[str, str]:
        """What squeue and sacct say, in two calls for each cluster."""
        return array_states(submission.job for submission in submissions if submission.job)

    def cancel(self, ids: Sequence[str]) -> None:
        """Calls scancel once."""
        cancel_jobs(ids)

    def find(self, names: Collection[str]) -> dict[str, str]:
        """Looks for job names in squeue and sacct."""
        return find_jobs(names, self.clusters)

    def log(self, root: Path, submission: Submission, number: int) -> Path | None:
        """Where submitit has Slurm write what the task's first process prints."""
        if submission.job is None:
            return None
        return _folder(root, submission.token) / f"{task_id(number_of(submission.job), number)}_0_log.out"

    def script(self, root: Path, array: Array) -> str:
        """The job script."""
        folder = _folder(root, "TOKEN")
        settings = self._settings(array.shape, f"rnet-{array.stage}-TOKEN", folder, None, {})
        return job_script(settings, self._own, self.python, folder, len(array.tasks))

    @cached_property
    def _own(self) -> dict[str, Any]:
        return own_options(self.sbatch)

    @cached_property
    def _home(self) -> list[str]:
        """The cluster that Slurm has chosen for the arrays of this submission, once it has."""
        return []

    @property
    def _requeues(self) -> bool:
        return self._own.get("requeue", True) is not False and not self._own.get("no-requeue")

    def _clusters(self, after: After) -> str | None:
        """Where an array goes: to its parents, because no job can wait for one of another cluster."""
        if self.clusters is None:
            return None
        places = sorted({*self._home, *map(cluster_of, after)})
        if len(places) > 1:
            raise UserError(
                f"its parents run on clusters={','.join(places)}, and a job cannot wait for one of another cluster; "
                "submit again when they have ended"
            )
        return places[0] if places else self.clusters

    def _settings(self, shape: Shape, name: str, folder: Path, code: Path | None, after: After) -> dict[str, Any]:
        """What submitit is given for an array's script."""
        if not str(folder).isprintable():
            raise UserError(
                f"the store's path {str(folder)!r} has control characters, which no job script can hold; rename it"
            )
        setup = [*self.setup, find_pickle(folder)]
        if code is not None:
            here = shlex.quote(os.getcwd())  # where plugins of one file are
            setup.append(f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}:{here}")
            setup.append("export PYTHONSAFEPATH=1")  # else the folder that one submits from comes before the snapshot
        # Since 22.05 srun takes this from nothing else, and would bind a task to one CPU.
        setup.append('[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK')
        setup.append(f"export {TOKEN}=$({_RANDOM})")  # made in the job: no file and no command line shows it
        setup.append(f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{shape.cpus}}}")
        found = {
            "job_name": name, "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "time": shape.minutes, "nodes": shape.nodes,
            "ntasks_per_node": shape.processes, "cpus_per_task": shape.cpus, "dependency": dependency(after),
            "wckey": None, "array_parallelism": self.max_parallel, "signal_delay_s": self.signal_seconds,
            "setup": setup, "teardown": requeue_after_a_crash(self.crash_requeues if self._requeues else 0),
            "additional_parameters": {
                "requeue" if self._requeues else "no-requeue": True,
                **resource_options(shape, self._own, self.memory_option, self.gpu_option, self.gpu_type),
            },
            # Where sbatch is told to export nothing, srun would be, too, and lose what stands in setup.
            "srun_args": ["--kill-on-bad-exit=1", "--export=ALL"], "stderr_to_stdout": True,
        }  # fmt: skip
        return {key: value for key, value in found.items() if value is not None or key == "wckey"}


def dependency(after: After) -> str | None:
    """afterany on the tasks; None if there are none.

    After any end, not only success: a child that finds no parent says so and ends, where afterok would leave it waiting
    for ever and one failed parent would stop the children of all.
    """
    terms = []
    for job, numbers in after.items():
        terms += [task_id(number_of(job), number) for number in numbers] or [number_of(job)]
    return "afterany:" + ":".join(terms) if terms else None


class SlurmTask:
    """What submitit pickles and every task of an array calls; all of a task is in the submission's record.

    requeues: whether the site lets a task start again. named: whether ids of jobs have their cluster's name.
    """

    def __init__(self, root: Path, token: str, requeues: bool, named: bool) -> None:
        self.root, self.token, self.requeues, self.named = root, token, requeues, named

    def __call__(self) -> None:
        """Computes the cells of this array element; rank 0 requeues it when it was asked to stop."""
        job, number = os.environ["SLURM_ARRAY_JOB_ID"], int(os.environ["SLURM_ARRAY_TASK_ID"])
        first = int(os.environ.get("SLURM_PROCID", 0)) == 0

        def requeue(signal_name: str) -> None:
            try:
                requeue_task(task_id(job, number), signal_name)
            except UserError as error:
                logger.warning("not started again (%s); rnet sweep retry goes on from what is saved", error)

        run_task(
            self.root,
            self.token,
            number,
            job=on_cluster(job, os.environ.get("SLURM_CLUSTER_NAME") if self.named else None),
            restart=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
            node=os.environ.get("SLURMD_NODENAME"),
            requeue=requeue if first and self.requeues else None,
        )


def _folder(root: Path, token: str) -> Path:
    return root / "jobs" / token
