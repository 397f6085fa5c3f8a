"""How cells become arrays: victims are kept apart as far as the number of sbatch calls allows, so that what follows
one victim need not wait for the others.

A victim's cells of one stage and shape form one array; all train cells of a shape are one. Where that makes more
arrays than allowed, victims share arrays; where even one group makes too many, tasks take several cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from launch.sweep.plan.plan import Plan
from launch.sweep.plan.resources import Shape
from rnet.stages.graph import STAGE_NAMES


@dataclass(frozen=True, kw_only=True)
class Array:
    """Cells (by place) of one stage and shape, a list for each task."""

    stage: str
    shape: Shape
    tasks: list[list[int]]


def make_arrays(plan: Plan, wanted: Iterable[int], *, max_size: int, max_arrays: int) -> list[Array]:
    """Arrays of the wanted cells, parents before children. max_size: tasks in one array."""
    places = sorted(wanted)
    victims = sorted({plan.cells[place].victim for place in places})
    for groups in range(max(1, min(len(victims), max_arrays)), 0, -1):
        group_of = {victim: number * groups // len(victims) for number, victim in enumerate(victims)}
        arrays = _split(plan, places, group_of, max_size, 1)
        if len(arrays) <= max_arrays:
            return arrays
    packing = 1
    while len(arrays) > max_arrays and any(len(array.tasks) > 1 for array in arrays):
        packing *= 2
        packed = _split(plan, places, group_of, max_size, packing)
        if len(packed) == len(arrays):  # as many shapes as arrays: nothing is won
            return packed
        arrays = packed
    return arrays


def _split(plan: Plan, places: list[int], group_of: Mapping[int, int], max_size: int, packing: int) -> list[Array]:
    keyed: dict[tuple[int, int, int], list[int]] = {}
    for place in places:
        cell = plan.cells[place]
        group = 0 if cell.stage == "train" else group_of[cell.victim]
        keyed.setdefault((STAGE_NAMES.index(cell.stage), cell.shape, group), []).append(place)
    arrays = []
    for (stage, shape_place, _), members in sorted(keyed.items()):
        shape = plan.shapes[shape_place]
        if shape.nodes * shape.processes == 1:
            shape = replace(shape, pack=shape.pack * packing, minutes=shape.minutes * packing)
        tasks = [members[start : start + shape.pack] for start in range(0, len(members), shape.pack)]
        for start in range(0, len(tasks), max_size):
            arrays.append(Array(stage=STAGE_NAMES[stage], shape=shape, tasks=tasks[start : start + max_size]))
    return arrays


def dependency(plan: Plan, array: Array, task_of: Mapping[int, str], sizes: Mapping[str, int]) -> str | None:
    """Slurm's afterany on the tasks that compute parents of the array's cells; None if there are none.

    task_of: the task ("123_4") of each submitted cell by place. sizes: how many tasks each array has. After any end,
    not only success: a child that finds no parent says so and ends, where afterok would leave it waiting for ever and
    one failed parent would stop the children of all.
    """
    needed = {
        task_of[parent]
        for task in array.tasks
        for place in task
        for parent in plan.cells[place].parents
        if parent in task_of
    }
    by_job: dict[str, list[str]] = {}
    for task in sorted(needed):
        by_job.setdefault(task.partition("_")[0], []).append(task)
    terms = []
    for job, tasks in by_job.items():
        terms += [job] if len(tasks) == sizes.get(job) or len(tasks) > 50 else tasks
    return "afterany:" + ":".join(terms) if terms else None
