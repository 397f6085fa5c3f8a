"""What was handed to a cluster: one record per array, written before sbatch is called and completed after it.

    <root>/submissions/<token>.json

A record without a job was cut off between sbatch and bookkeeping: its token is the job's name, by which it is found
again. Tasks read their cells from the record, so that they run whether or not the submitter survived.
"""

from __future__ import annotations

import getpass
import platform
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.sweep.plan.plan import Plan
from rnet.storage.files import locked
from rnet.storage.json_files import names_in, read_json, write_json

LIVE = ("intended", "submitted")


@dataclass(kw_only=True)
class Submission:
    """tasks: labels of each task's cells. job: Slurm's array job id, or a process id ("pid:123") without Slurm.

    state: intended (not known to have reached the cluster), submitted, cancelled, void (never reached it).
    """

    token: str
    sweep: str
    stage: str
    kind: str
    tasks: list[list[str]]
    jobs: dict[str, dict[str, Any]]
    common: list[str]
    config_dir: str | None
    snapshot: str | None
    job: str | None = None
    state: str = "intended"
    created: float = field(default_factory=time.time)
    user: str = field(default_factory=getpass.getuser)
    host: str = field(default_factory=platform.node)

    @property
    def name(self) -> str:
        """The job's name on the cluster."""
        return f"rnet-{self.stage}-{self.token}"


def new_submission(
    plan: Plan, stage: str, tasks: Sequence[Sequence[int]], dead: dict[str, int], snapshot: str | None
) -> Submission:
    """An intended submission of the plan's cells (by place)."""
    jobs = {}
    for place in (place for task in tasks for place in task):
        cell = plan.cells[place]
        jobs[cell.label] = {
            "overrides": cell.overrides,
            "parents": [plan.cells[parent].label for parent in cell.parents],
            "dead": dead.get(cell.label, 0),
        }
    return Submission(
        token=secrets.token_hex(6), sweep=plan.name, stage=stage, kind=plan.profile.kind, jobs=jobs, snapshot=snapshot,
        tasks=[[plan.cells[place].label for place in task] for task in tasks], common=list(plan.common),
        config_dir=plan.config_dir,
    )  # fmt: skip


def save(root: Path, submission: Submission) -> None:
    """Writes the record, durably."""
    write_json(_path(root, submission.token), vars(submission))


def read(root: Path, token: str) -> Submission | None:
    """The record of a token; None if there is none."""
    document = read_json(_path(root, token))
    return None if document is None else Submission(**document)


def read_all(root: Path) -> list[Submission]:
    """Every record of the store, of all sweeps, the oldest first."""
    return sorted(_records(root), key=lambda submission: submission.created)


def submitting(root: Path) -> AbstractContextManager[None]:
    """Held while cells are chosen and submitted, so that two people cannot choose the same ones."""
    return locked(root / "submissions" / ".lock")


def _records(root: Path) -> Iterator[Submission]:
    for name in names_in(root / "submissions"):
        if name.endswith(".json"):
            submission = read(root, name.removesuffix(".json"))
            if submission is not None:
                yield submission


def _path(root: Path, token: str) -> Path:
    return root / "submissions" / f"{token}.json"
