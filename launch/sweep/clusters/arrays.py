"""How cells become arrays: victims are kept apart as far as the number of submissions allows, so that what follows one
victim need not wait for the others.

A victim's cells of one stage and shape form one array; all train cells of a shape are one. The plan's early cells have
arrays of their own, before all others. Where that makes more arrays than allowed, victims share arrays, and at last
the early cells' too; where even one group makes too many, tasks take several cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from launch.sweep.plan.plan import Plan
from launch.sweep.plan.resources import Shape
from launch.sweep.records.submissions import split_task
from rnet.stages.graph import STAGE_NAMES

MOST_NAMED = 50
"""So many tasks of one job (at most) are waited for by name: schedulers limit the length of a dependency."""

After = Mapping[str, list[int]]
"""Tasks to wait for: numbers by job, an empty list for all of a job's tasks."""


@dataclass(frozen=True, kw_only=True)
class Array:
    """Cells (by index) of one stage and shape, a list for each task.

    packing: how many times as much as its stage asks for a task has to do (and minutes to do it), to have few arrays.
    """

    stage: str
    shape: Shape
    tasks: list[list[int]]
    packing: int = 1


def make_arrays(plan: Plan, wanted: Iterable[int], *, max_size: int, max_arrays: int) -> list[Array]:
    """Arrays of the wanted cells, parents before children. max_size: tasks in one array."""
    indices = sorted(wanted)
    victims = sorted({plan.cells[index].victim for index in indices})
    early = plan.early if any(index >= plan.early for index in indices) else 0
    for first in dict.fromkeys((early, 0)):
        for groups in range(max(1, min(len(victims), max_arrays)), 0, -1):
            group_of = {victim: number * groups // len(victims) for number, victim in enumerate(victims)}
            arrays = _split(plan, indices, group_of, max_size, 1, first)
            if len(arrays) <= max_arrays:
                return arrays
    packing = 1
    while len(arrays) > max_arrays and any(len(array.tasks) > 1 for array in arrays):
        packing *= 2
        packed = _split(plan, indices, group_of, max_size, packing, 0)
        if len(packed) == len(arrays):  # as many shapes as arrays: nothing is won
            return packed
        arrays = packed
    return arrays


def _split(
    plan: Plan, indices: list[int], group_of: Mapping[int, int], max_size: int, packing: int, early: int
) -> list[Array]:
    """early: so many cells of the plan are kept apart from the others."""
    keyed: dict[tuple[bool, int, int, int], list[int]] = {}
    for index in indices:
        cell = plan.cells[index]
        group = 0 if cell.stage == "train" or index < early else group_of[cell.victim]
        keyed.setdefault((index >= early, STAGE_NAMES.index(cell.stage), cell.shape, group), []).append(index)
    arrays = []
    for (_, stage, shape_index, _), members in sorted(keyed.items()):
        shape = plan.shapes[shape_index]
        times = packing if shape.nodes * shape.processes == 1 else 1
        shape = replace(shape, pack=shape.pack * times, minutes=shape.minutes * times)
        tasks = [members[start : start + shape.pack] for start in range(0, len(members), shape.pack)]
        for start in range(0, len(tasks), max_size):
            some = tasks[start : start + max_size]
            arrays.append(Array(stage=STAGE_NAMES[stage], shape=shape, tasks=some, packing=times))
    return arrays


def needed_tasks(plan: Plan, array: Array, task_of: Mapping[int, str], sizes: Mapping[str, int]) -> After:
    """The tasks that compute parents of the array's cells, by job; many of one job become the whole job.

    task_of: the id of each submitted cell's task, by the cell's index. sizes: how many tasks each job has.
    """
    needed = {
        task_of[parent]
        for task in array.tasks
        for index in task
        for parent in plan.cells[index].parents
        if parent in task_of
    }
    by_job: dict[str, list[int]] = {}
    for job, number in sorted(map(split_task, needed)):
        by_job.setdefault(job, []).append(number)
    whole = {job for job, numbers in by_job.items() if len(numbers) == sizes.get(job) or len(numbers) > MOST_NAMED}
    return {job: [] if job in whole else numbers for job, numbers in by_job.items()}
