"""The environment in which a cluster's commands are called: without what a surrounding job put there.

rnet may itself run in a job (an interactive session, a job that submits others). That job's SLURM_MEM_PER_CPU, SBATCH_*
or PMI_RANK would otherwise end up in the new jobs, where srun takes them for its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from rnet.errors import UserError

KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_UMASK")
"""Where Slurm's configuration is, and who is asking."""
_DROPPED = (
    "SLURM_", "SLURMD_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_", "PMI_", "PMI2_", "PMIX_"
)  # fmt: skip
"""Set by Slurm in jobs; or a user's filters and formats (SQUEUE_STATES), with which jobs would seem to be gone."""
_DROPPED_IN_A_JOB = ("SBATCH_", "SALLOC_", "PMI", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL")
"""Outside of a job SBATCH_ACCOUNT and the like are a person's own defaults."""
_RNETS = {
    f"SBATCH_{name}"
    for name in ("ARRAY_INX", "CLUSTERS", "DEPENDENCY", "ERROR", "JOB_NAME", "OUTPUT", "TEST_ONLY", "WAIT", "WRAP")
}
"""sbatch prefers these to what a script says, and rnet finds its jobs and logs by it."""
_OF_A_JOB = (
    "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_STEP_ID", "SLURM_PROCID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"
)  # fmt: skip


def outside_of_jobs(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment as it would be had no job started this process."""
    dropped = (*_DROPPED, *(_DROPPED_IN_A_JOB if _in_a_job(environment) else ()))
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT or not (name in _RNETS or name.startswith(dropped))
    }


def check_no_other_cluster(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UserError if a person, not a job, has a variable that asks for other clusters than this one."""
    for name in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"):
        if environment.get(name) and not _in_a_job(environment):
            raise UserError(
                f"{name}={environment[name]} is set, and who looks for these jobs later may not have it; write "
                f"clusters: {environment[name]} in a profile of yours, or unset it"
            )


def _in_a_job(environment: Mapping[str, str]) -> bool:
    return any(name in environment for name in _OF_A_JOB)
