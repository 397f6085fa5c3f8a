"""A cluster: what hands the cells of a sweep to machines. Slurm, MPI and this machine are three of them.

Another is one class in one file of yours, named in a profile: cluster/mine.yaml says `kind: mysite.pbs:Pbs`, and the
profile's other keys are the fields of that dataclass. A submission is recorded before start() and completed after it;
each of its tasks runs `python -m launch.sweep.work.task ROOT TOKEN NUMBER JOB` (or calls run_task of that module) with
Submission.code on PYTHONPATH, and finds all else in the record. A task's id is its job's and its number, "123_4".
tests/launch/sweep/clusters/stub_pbs.py is an example.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from launch.sweep.clusters.arrays import After, Array
from launch.sweep.plan.plan import Plan
from launch.sweep.records.submissions import Submission, by_profile
from rnet.config.values import shown, typed_fields
from rnet.config.yaml_files import place_of
from rnet.errors import UserError, first_line, unknown_name

KINDS = {
    "slurm": "launch.sweep.clusters.slurm:Slurm",
    "local": "launch.sweep.clusters.local:Local",
    "mpi": "launch.sweep.clusters.mpi:Mpi",
}
LIVING = ("pending", "running", "running long")
"""What states() says of a task that will go on by itself."""


class Full(UserError):
    """The cluster takes no more tasks of this user for now; fewer, or later, may do."""


@dataclass(frozen=True, kw_only=True)
class Cluster(ABC):
    """A place where sweeps run; its fields are the keys of its profile. Methods raise UserError when it is mute."""

    kind: str
    """slurm, local (processes on this machine), mpi (one allocation, cells handed out to ranks) or module:Class."""

    queued: ClassVar[bool] = True
    """Whether arrays of tasks wait in a queue."""
    hint_seconds: ClassVar[float] = 10.0
    """How old an answer of states() may be for rnet sweep status."""
    poll_seconds: ClassVar[float] = 5.0
    """How often wait() asks."""
    shell_lines: ClassVar[tuple[str, ...]] = ()
    """Fields that hold lines of a shell, in which line breaks and tabs may stand; in no other field may they."""

    def require(self) -> None:  # noqa: B027 - most have nothing to ask for
        """Raises UserError where the cluster cannot be reached from here."""

    @abstractmethod
    def arrays(self, plan: Plan, wanted: Collection[int], *, ask: bool = True) -> list[Array]:
        """The arrays in which cells (by index) are submitted, parents first. Without ask, no command of the cluster is
        called."""

    def check(self, arrays: Sequence[Array]) -> None:  # noqa: B027 - most cannot know
        """Raises UserError, with stage, key and value, for arrays that no machine of the cluster could ever run."""

    @abstractmethod
    def start(self, root: Path, submission: Submission, array: Array, after: After) -> str:
        """Hands over a recorded submission and returns its job's id.

        Tasks must not start before those in `after` have ended in whatever way. Raises UserError with the cluster's
        own words if it refuses; Full if it would take fewer tasks, or these later.
        """

    @abstractmethod
    def states(self, submissions: Sequence[Submission]) -> dict[str, str]:
        """What is known of the submissions' tasks, by task id; a task that is unknown is left out.

        pending, running, running long (for over attempts.SILENT_SECONDS), or how it ended: done, failed, timed out,
        preempted, cancelled, lost.
        """

    @abstractmethod
    def cancel(self, ids: Sequence[str]) -> None:
        """Stops jobs and single tasks; those that have ended are passed over."""

    def find(self, names: Collection[str]) -> dict[str, str]:
        """Jobs by the names of their submissions, for those whose submitter died before it knew the job's id.

        A submission that is not found becomes void: its tasks, should they turn up, do nothing.
        """
        return {}

    def script(self, root: Path, array: Array) -> str:
        """What start() would hand over for an array, to be looked at."""
        return ""

    def log(self, root: Path, submission: Submission, number: int) -> Path | None:
        """The file with what a task has printed; None where the cluster keeps none."""
        return None

    def wait(self, submissions: Sequence[Submission]) -> None:
        """Returns when no task of the submissions goes on by itself any more."""
        while any(word in LIVING for word in self.states(submissions).values()):
            time.sleep(self.poll_seconds)


def living(among: Iterable[Submission]) -> tuple[list[Submission], str]:
    """Submissions of which a task waits or runs, and why a cluster did not say: then all of its own are among them."""
    found: list[Submission] = []
    trouble = ""
    for members in by_profile(submission for submission in among if submission.job is not None):
        try:
            states = make_cluster(members[0].profile).states(members)
        except UserError as error:
            found, trouble = [*found, *members], str(error)
            continue
        found += [s for s in members if any(states.get(task) in LIVING for task in s.task_ids)]
    return found, trouble


def make_cluster(profile: Mapping[str, Any], name: str = "") -> Cluster:
    """The cluster that a profile describes. name: the profile's, for errors.

    Raises UserError for an unknown kind, unknown keys and values that cannot be.
    """
    try:
        kind = _cluster_class(profile["kind"])
        settings = typed_fields("key", kind, profile)
        for key, value in settings.items():
            if key not in kind.shell_lines:
                _check_printable(key, value)
        missing = [f.name for f in dataclasses.fields(kind) if f.name not in settings and not _has_default(f)]
        if missing:
            raise UserError(f"{place_of(profile)}kind={str(profile['kind'])!r} needs {' and '.join(missing)}")
        return kind(**settings)
    except UserError as error:
        known = not name or f"{name}.yaml, line" in str(error)
        raise UserError(str(error) if known else f"cluster/{name}.yaml: {error}") from None


def _check_printable(setting: str, value: Any) -> None:
    """Raises UserError for line breaks and other control characters, which would begin a line of a job script."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_printable(setting, key)
            _check_printable(f"{setting}.{key}", item)
    elif isinstance(value, list):
        for item in value:
            _check_printable(setting, item)
    elif isinstance(value, str) and not value.isprintable():
        bad = next(character for character in value if not character.isprintable())
        raise UserError(f"{setting}={shown(value)} holds the character U+{ord(bad):04X}; write it in one plain line")


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _cluster_class(kind: str) -> type[Cluster]:
    target = KINDS.get(kind, kind)
    module, colon, name = target.partition(":")
    if not colon:
        raise unknown_name("kind", kind, KINDS, remedy="A class of yours is written package.module:Class.")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # code that runs at import may raise anything
        what = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"kind={kind!r} cannot be imported: {what}; check its spelling and PYTHONPATH") from None
    if not (isinstance(found, type) and issubclass(found, Cluster)):
        raise UserError(f"kind={kind!r} is no cluster; derive it from launch.sweep.clusters.base.Cluster")
    return found
