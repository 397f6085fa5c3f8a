"""The environment in which a cluster's commands are called: without what a surrounding job put there.

rnet may itself run in a job (an interactive session, a job that submits others). That job's SLURM_MEM_PER_CPU, SBATCH_*
or PMI_RANK would otherwise end up in the new jobs, where srun takes them for its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_UMASK")
"""Where Slurm's configuration is, and who is asking."""
_DROPPED = (
    "SLURM_", "SLURMD_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_", "PMI_", "PMI2_", "PMIX_"
)  # fmt: skip
"""Set by Slurm in jobs; or a user's filters and formats (SQUEUE_STATES), with which jobs would seem to be gone."""
_DROPPED_IN_A_JOB = ("SBATCH_", "SALLOC_", "PMI", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL")
"""Outside of a job SBATCH_ACCOUNT and the like are a person's own defaults."""
_OF_A_JOB = (
    "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_STEP_ID", "SLURM_PROCID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"
)  # fmt: skip


def outside_of_jobs(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment as it would be had no job started this process."""
    in_a_job = any(name in environment for name in _OF_A_JOB)
    dropped = (*_DROPPED, *(_DROPPED_IN_A_JOB if in_a_job else ()))
    return {name: value for name, value in environment.items() if name in KEPT or not name.startswith(dropped)}
