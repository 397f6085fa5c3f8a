"""`rnet sweep run`: one cell in this process, from its resolved configuration, after the parents that it lacks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from launch.sweep.plan.names import cell_names
from launch.sweep.plan.plan import Plan, done_cells, plan_path, read_plan
from launch.sweep.plan.spec import load_sweep
from launch.sweep.records.attempts import Worker, is_dead_here, latest_attempt
from launch.sweep.show.current import current_plan
from launch.sweep.work.task import EXIT_FAILED
from rnet.errors import UserError
from rnet.storage.files import share_files

logger = logging.getLogger(__name__)


def find_cell(
    wanted: str, file: Path, changes: Sequence[str], root: Path, config_dir: Path | None = None
) -> tuple[Plan, int]:
    """The cell with that label, a part of its id, or its name: of the file as it is, or else of what was submitted.

    Raises UserError for none, and for several.
    """
    saved = plan_path(root, load_sweep(file, changes).name)
    if saved.exists():
        plans = [current_plan(file, changes, root, config_dir).plan, read_plan(saved)]
    else:
        from launch.sweep.plan.expand import make_plan  # composes configurations

        plans = [make_plan(file, changes, config_dir=config_dir, root=root)]
    for plan in plans:
        if (index := _found(plan, wanted)) is not None:
            return plan, index
    raise UserError(f"{file} has no cell {wanted!r}; rnet sweep plan {file} --cells lists them")


def _found(plan: Plan, wanted: str) -> int | None:
    names = cell_names(plan)
    words = wanted.split()
    for index, cell in enumerate(plan.cells):
        if wanted in (cell.label, cell.id) or names[index].split() == words:
            return index
    some = [i for i, cell in enumerate(plan.cells) if wanted and (cell.id.startswith(wanted) or
            cell.label.startswith(wanted))]  # fmt: skip
    if len(some) > 1:
        few = ", ".join(f"{plan.cells[index].label} ({names[index]})" for index in some[:4])
        raise UserError(f"{wanted!r} is the beginning of {len(some)} cells; name one: {few}")
    return some[0] if some else None


def run_here(plan: Plan, index: int, root: Path) -> None:
    """Computes a cell and the parents that it lacks. Exits with EXIT_FAILED if one of them cannot be.

    It is an attempt like those of tasks: one that runs elsewhere is waited for, and what is finished is not repeated.
    """
    from launch.sweep.work.cell import Job, run_cell  # brings torch
    from rnet.parallel.launch import launched

    root = root.resolve()
    share_files(root)
    names = cell_names(plan)
    done = done_cells(plan, root)
    for number in plan.with_parents([index]):
        cell = plan.cells[number]
        if number not in done:
            status = latest_attempt(root, cell.stage, cell.id)
            if status is not None and status["state"] == "running" and not is_dead_here(status):
                logger.info("%s: an attempt runs on %s; waiting until it ends", names[number], status["host"])
            logger.info("%s (%s)", names[number], cell.label)
            job = Job(
                stage=cell.stage, id=cell.id, configuration=plan.configuration(cell),
                parents=tuple(plan.cells[parent].label for parent in cell.parents),
            )  # fmt: skip
            if run_cell(root, job, Worker(token="by-hand"), launched()) != "done":
                raise SystemExit(EXIT_FAILED)
    print(root / plan.cells[index].label)  # noqa: T201
