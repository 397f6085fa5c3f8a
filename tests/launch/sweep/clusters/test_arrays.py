"""Arrays: victims apart as far as sbatch calls allow, and dependencies on just the tasks that are needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launch.sweep.clusters.arrays import Array, dependency, make_arrays
from launch.sweep.clusters.slurm import expand_tasks, sbatch_text
from launch.sweep.plan.plan import Cell, Plan, Row
from launch.sweep.plan.resources import Profile, Shape


def graph(victims: int, attacks: int, defenses: int, shapes: list[Shape] | None = None) -> Plan:
    """A plan as sweeps make it, without configurations. Shapes go to the stages in turn."""
    shapes = shapes or [Shape()]
    cells: list[Cell] = []

    def add(stage: str, number: int, parents: tuple[int, ...]) -> int:
        victim = cells[parents[0]].victim if parents else len(cells)
        cells.append(Cell(stage, f"{len(cells):016x}", parents, (), number % len(shapes), victim))
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
        name="graph", cluster="slurm", profile=Profile(kind="slurm"), common=(), config_dir=None, cells=cells,
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
        after = dependency(plan, array, task_of, sizes)
        waits = set() if after is None else {t for term in after.split(":")[1:] for t in _tasks(term, sizes)}
        assert waits == {task_of[p] for p in needed}
        assert {plan.cells[p].victim for p in needed} == {
            plan.cells[place].victim for task in array.tasks for place in task if plan.cells[place].parents
        }
        assert array.stage == "train" or len({plan.cells[p].victim for p in needed}) == 1
        sizes[str(100 + number)] = len(array.tasks)
        task_of |= {place: f"{100 + number}_{i}" for i, task in enumerate(array.tasks) for place in task}


def _tasks(term: str, sizes: dict[str, int]) -> list[str]:
    return [term] if "_" in term else [f"{term}_{number}" for number in range(sizes[term])]


def test_finished_parents_are_not_waited_for() -> None:
    plan = graph(1, 2, 1)
    arrays = everything(plan)
    assert dependency(plan, arrays[1], {}, {}) is None


def test_a_packed_task_has_the_time_of_all_its_cells() -> None:
    arrays = everything(graph(200, 4, 4), max_size=100, max_arrays=5)
    for array in arrays:
        assert array.shape.minutes == 60 * array.shape.pack
        assert all(len(task) <= array.shape.pack for task in array.tasks)


def test_tasks_of_several_processes_are_never_packed() -> None:
    arrays = everything(graph(50, 4, 4, [Shape(processes=2)]), max_size=20, max_arrays=4)
    assert all(len(task) == 1 for array in arrays for task in array.tasks)


def test_the_job_script_says_what_was_asked_for(tmp_path: Path) -> None:
    profile = Profile(
        kind="slurm", partition="gpu", account="us", qos="high", constraint="a100", setup=["module load cuda"],
        max_parallel=7, signal_seconds=120, python="apptainer exec --nv rnet.sif python", sbatch={"mail-type": "END"},
    )  # fmt: skip
    shape = Shape(nodes=2, processes=4, gpus=1, cpus=8, memory_gb=60, minutes=90)
    text = sbatch_text(profile, shape, "rnet-train-abc", tmp_path, 50, "afterany:12_3")
    for line in (
        "--partition=gpu", "--account=us", "--qos=high", "--constraint=a100", "--array=0-49%7", "--nodes=2",
        "--ntasks-per-node=4", "--gpus-per-task=1", "--cpus-per-task=8", "--mem=61440M", "--time=90",
        "--signal=USR2@120", "--dependency=afterany:12_3", "--requeue", "--mail-type=END",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert text.index("module load cuda") < text.index("srun")
    assert "apptainer exec --nv rnet.sif python -u -m submitit.core._submit" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("12_3", ["12_3"]),
        ("12", ["12"]),
        ("12_[0-2,7%4]", ["12_0", "12_1", "12_2", "12_7"]),
        ("12_[5]", ["12_5"]),
    ],
)
def test_slurms_names_of_array_tasks_are_spelled_out(text: str, tasks: list[str]) -> None:
    assert expand_tasks(text) == tasks


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(137, 0, True), (137, 2, False), (1, 0, False), (0, 0, False)]
)
def test_only_a_task_killed_by_a_signal_is_started_again_by_its_script(
    code: int, restarts: int, requeued: bool, tmp_path: Path
) -> None:
    script = sbatch_text(Profile(kind="slurm"), Shape(), "n", tmp_path, 1, None)
    teardown = script[script.index("# teardown") :]
    called = tmp_path / "called"
    stand_ins = f"scontrol() {{ echo $* > {called}; }}; sleep() {{ :; }}\n(exit {code})\n"
    variables: dict[str, Any] = {
        "SLURM_RESTART_COUNT": str(restarts), "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "6",
        "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    done = subprocess.run(["bash"], input=stand_ins + teardown, text=True, env=variables)
    assert done.returncode == code
    assert called.exists() == requeued
    if requeued:
        assert re.fullmatch(r"requeue 5_6\n", called.read_text())
