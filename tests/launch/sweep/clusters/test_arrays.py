"""Arrays: victims apart as far as sbatch calls allow, and dependencies on just the tasks that are needed."""

from __future__ import annotations

import pytest

from launch.sweep.clusters.arrays import MOST_NAMED, After, Array, make_arrays, needed_tasks
from launch.sweep.plan.plan import Cell, Plan, Row
from launch.sweep.plan.resources import Shape


def graph(victims: int, attacks: int, defenses: int, shapes: list[Shape] | None = None) -> Plan:
    """A plan as sweeps make it, without configurations. Shapes go to the stages in turn."""
    shapes = shapes or [Shape()]
    cells: list[Cell] = []

    def add(stage: str, number: int, parents: tuple[int, ...]) -> int:
        victim = cells[parents[0]].victim if parents else len(cells)
        cells.append(Cell(stage, f"{len(cells):016x}", parents, number % len(shapes), victim))
        return len(cells) - 1

    rows = []
    for _ in range(victims):
        victim = add("train", 0, ())
        suspects = [add("attack", 1, (victim,)) for _ in range(attacks)]
        fingerprints = [add("fingerprint", 2, (victim,)) for _ in range(defenses)]
        rows += [
            Row({}, {"verify": add("verify", 3, (suspect, fingerprint))}, ())
            for suspect in suspects
            for fingerprint in fingerprints
        ]
    return Plan(
        name="graph", cluster="slurm", profile={"kind": "slurm"}, cells=cells,
        rows=rows, shapes=shapes,
    )  # fmt: skip


def everything(plan: Plan, **limits: int) -> list[Array]:
    return make_arrays(plan, range(len(plan.cells)), **({"max_size": 1000, "max_arrays": 20} | limits))


CASES = [
    (graph(1, 4, 4), {}),
    (graph(3, 2, 2), {}),
    (graph(30, 4, 4), {}),
    (graph(500, 5, 4), {}),
    (graph(500, 5, 4), {"max_size": 100}),
    (graph(8, 4, 4, [Shape(cpus=n) for n in (1, 2, 3)]), {"max_arrays": 9}),
    (graph(8, 4, 4, [Shape(pack=3)]), {}),
]


@pytest.mark.parametrize(("plan", "limits"), CASES)
def test_every_cell_is_in_one_task_after_its_parents_and_limits_hold(plan: Plan, limits: dict[str, int]) -> None:
    arrays = everything(plan, **limits)
    order = [place for array in arrays for task in array.tasks for place in task]
    assert sorted(order) == list(range(len(plan.cells)))
    position = {place: number for number, place in enumerate(order)}
    assert all(position[p] < position[place] for place in order for p in plan.cells[place].parents)
    assert len(arrays) <= limits.get("max_arrays", 20)
    assert all(len(array.tasks) <= limits.get("max_size", 1000) for array in arrays)
    for array in arrays:
        kinds = {(plan.cells[p].stage, plan.shapes[plan.cells[p].shape].cpus) for task in array.tasks for p in task}
        assert kinds == {(array.stage, array.shape.cpus)}


def test_ten_thousand_cells_take_at_most_twenty_sbatch_calls() -> None:
    plan = graph(500, 4, 4)
    assert len(plan.cells) > 10_000
    assert len(everything(plan)) <= 20


def test_what_follows_a_victim_waits_for_that_victim_alone() -> None:
    plan = graph(3, 2, 2)
    task_of: dict[int, str] = {}
    sizes: dict[str, int] = {}
    for number, array in enumerate(everything(plan)):
        needed = {p for task in array.tasks for place in task for p in plan.cells[place].parents}
        waits = _tasks(needed_tasks(plan, array, task_of, sizes), sizes)
        assert waits == {task_of[p] for p in needed}
        assert {plan.cells[p].victim for p in needed} == {
            plan.cells[place].victim for task in array.tasks for place in task if plan.cells[place].parents
        }
        assert array.stage == "train" or len({plan.cells[p].victim for p in needed}) == 1
        sizes[str(100 + number)] = len(array.tasks)
        task_of |= {place: f"{100 + number}_{i}" for i, task in enumerate(array.tasks) for place in task}


def _tasks(after: After, sizes: dict[str, int]) -> set[str]:
    return {f"{job}_{number}" for job, numbers in after.items() for number in numbers or range(sizes[job])}


def test_finished_parents_are_not_waited_for() -> None:
    plan = graph(1, 2, 1)
    assert needed_tasks(plan, everything(plan)[1], {}, {}) == {}


def test_a_job_of_which_many_tasks_are_needed_is_waited_for_as_a_whole() -> None:
    plan = graph(200, 1, 1)
    attacks = [[index] for index, cell in enumerate(plan.cells) if cell.stage == "attack"]
    trains = [index for index, cell in enumerate(plan.cells) if cell.stage == "train"]
    task_of = {index: f"7_{number}" for number, index in enumerate(trains)}
    for count, expected in ((MOST_NAMED + 1, []), (2, [0, 1])):
        array = Array(stage="attack", shape=Shape(), tasks=attacks[:count])
        assert needed_tasks(plan, array, task_of, {"7": 200}) == {"7": expected}


def test_a_packed_task_has_the_time_of_all_its_cells() -> None:
    arrays = everything(graph(200, 4, 4), max_size=100, max_arrays=5)
    for array in arrays:
        assert array.shape.minutes == 60 * array.shape.pack
        assert all(len(task) <= array.shape.pack for task in array.tasks)


def test_tasks_of_several_processes_are_never_packed() -> None:
    arrays = everything(graph(50, 4, 4, [Shape(processes=2)]), max_size=20, max_arrays=4)
    assert all(len(task) == 1 for array in arrays for task in array.tasks)
