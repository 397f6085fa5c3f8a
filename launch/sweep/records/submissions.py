"""What was handed to a cluster: one record per array, written before the cluster is called and completed after it.

    <root>/submissions/<token>.json

A record without a job was cut off between submission and bookkeeping: its token is the job's name, by which it is found
again. Tasks read their cells from the record, so that they run whether or not the submitter survived.
"""

from __future__ import annotations

import getpass
import json
import platform
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.sweep.plan.plan import Plan
from rnet.errors import UserError
from rnet.storage.files import locked
from rnet.storage.json_files import names_in, read_json, write_json
from rnet.storage.shapes import NUMBER, TEXT_OR_NONE, fits

LIVE = ("intended", "submitted")
_SHAPE = {
    "token": str, "sweep": str, "stage": str, "profile": {"kind": str}, "tasks": [[str]],
    "cells": {str: {"settings": [int], "parents": [str], "dead": int}}, "settings": {str: dict},
    "snapshot": TEXT_OR_NONE, "job": TEXT_OR_NONE, "state": str, "created": NUMBER, "user": str, "host": str,
}  # fmt: skip


@dataclass(kw_only=True)
class Submission:
    """profile: the settings of the cluster. tasks: labels of each task's cells. job: the cluster's id of all of them.
    cells: what each needs; settings: the pieces of its resolved configuration, as in the plan.

    state: intended (not known to have reached the cluster), submitted, cancelled, void (never reached it).
    """

    token: str
    sweep: str
    stage: str
    profile: dict[str, Any]
    tasks: list[list[str]]
    cells: dict[str, dict[str, Any]]
    settings: dict[str, dict[str, Any]]
    snapshot: str | None
    job: str | None = None
    state: str = "intended"
    created: float = field(default_factory=time.time)
    user: str = field(default_factory=getpass.getuser)
    host: str = field(default_factory=platform.node)

    @property
    def kind(self) -> str:
        """The kind of the cluster."""
        return self.profile["kind"]

    @property
    def name(self) -> str:
        """The job's name on the cluster."""
        return f"rnet-{self.stage}-{self.token}"

    def code(self, root: Path) -> Path | None:
        """The snapshot of the code that its tasks run, to be put first on PYTHONPATH; None for what is installed."""
        return root / "snapshots" / self.snapshot if self.snapshot else None

    def configuration(self, label: str) -> dict[str, Any]:
        """The resolved configuration of a cell, as rnet.config.run.run_to_dict writes it."""
        return {key: value for i in self.cells[label]["settings"] for key, value in self.settings[str(i)].items()}

    @property
    def task_ids(self) -> list[str]:
        """The id of each task, once there is a job."""
        return [task_id(self.job, number) for number in range(len(self.tasks))] if self.job else []


def task_id(job: str, number: int) -> str:
    """A task's id: "123_4"."""
    return f"{job}_{number}"


def split_task(task: str) -> tuple[str, int]:
    """The job and the number of a task."""
    job, _, number = task.rpartition("_")
    return job, int(number)


def new_submission(
    plan: Plan, stage: str, tasks: Sequence[Sequence[int]], dead: dict[str, int], snapshot: str | None
) -> Submission:
    """An intended submission of the plan's cells (by index)."""
    cells: dict[str, dict[str, Any]] = {}
    for index in (index for task in tasks for index in task):
        cell = plan.cells[index]
        cells[cell.label] = {
            "settings": cell.settings,
            "parents": [plan.cells[parent].label for parent in cell.parents],
            "dead": dead.get(cell.label, 0),
        }
    return Submission(
        token=secrets.token_hex(6), sweep=plan.name, stage=stage, profile=plan.profile, cells=cells, snapshot=snapshot,
        tasks=[[plan.cells[index].label for index in task] for task in tasks],
        settings={str(index): plan.settings[index] for needs in cells.values() for index in needs["settings"]},
    )  # fmt: skip


def save(root: Path, submission: Submission) -> None:
    """Writes the record, durably."""
    write_json(_path(root, submission.token), vars(submission))


def read(root: Path, token: str) -> Submission | None:
    """The record of a token; None if there is none."""
    document = read_json(_path(root, token))
    if document is None:
        return None
    try:
        if fits(document, _SHAPE) and _is_whole(found := Submission(**document)):
            return found
    except TypeError:
        pass
    raise UserError(
        f"{_path(root, token)} was written by another version of rnet, or is damaged; cancel its job and delete it"
    )


def _is_whole(submission: Submission) -> bool:
    """Whether its tasks are of cells that it has, and these of settings that it has."""
    known = all(label in submission.cells for labels in submission.tasks for label in labels)
    pieces = {str(index) for cell in submission.cells.values() for index in cell["settings"]}
    return known and pieces <= submission.settings.keys()


def read_all(root: Path) -> list[Submission]:
    """Every record of the store, of all sweeps, the oldest first."""
    return sorted(_records(root), key=lambda submission: submission.created)


def by_profile(submissions: Iterable[Submission]) -> list[list[Submission]]:
    """The submissions of each cluster together."""
    found: dict[str, list[Submission]] = {}
    for submission in submissions:
        found.setdefault(json.dumps(submission.profile, sort_keys=True), []).append(submission)
    return list(found.values())


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
