"""Sweeps on a real Slurm cluster: complete, each cell once, through kills, signals, refusals and dead submitters."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launch.sweep.plan.expand import make_plan
from launch.sweep.plan.plan import Plan
from launch.sweep.records import submissions
from launch.sweep.records.attempts import Worker, read_attempt
from launch.sweep.show.report import complete, report
from launch.sweep.states import StoreState
from launch.sweep.submit import cancel, submit
from launch.sweep.work.cell import Job, run_cell
from rnet.config.documents import run_to_dict
from rnet.config.run import load_config
from rnet.errors import UserError
from tests.launch.sweep.sweeps import tiny_plan
from tests.slurm.cluster import at_rest, logs, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
PATIENCE = 300.0
ON_SLURM: dict[str, Any] = {"cluster": "dev", "resources": {"default": {"memory_gb": 0.5}}}


def long_training(tmp_path: Path, seeds: list[int], **changes: Any) -> Plan:
    """Victims that take some seconds to train."""
    lines = ["dataset.image_size=8", "model.width=4", "train.epochs=60", "train.batch_size=50", "engine.device=cpu",
             "dataset.train_size=400", "engine.checkpoint_steps=20", "engine.log_every=1"]  # fmt: skip
    own = {"until": "train", "set": lines, "axes": {"seed": seeds}, "cases": None}
    return tiny_plan(tmp_path, **(ON_SLURM | own | changes))


def strict_training(tmp_path: Path) -> Plan:
    """One such victim, whose task is not started again when it dies."""
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "strict.yaml").write_text("kind: slurm\ncrash_requeues: 0\n")
    long_training(tmp_path, [0])  # writes the file
    return make_plan(tmp_path / "tiny.yaml", ["cluster=strict"], config_dir=tmp_path)


def trains(root: Path, plan: Plan) -> bool:
    """Whether every cell has trained a step."""
    return all((plan.folder(root, cell) / "checkpoints").is_dir() for cell in plan.cells)


def attempts_of(plan: Plan, root: Path, place: int) -> list[dict[str, Any]]:
    cell, found, number = plan.cells[place], [], 1
    while (status := read_attempt(root, cell.stage, cell.id, number)) is not None:
        found.append(status)
        number += 1
    return found


def ended(plan: Plan, root: Path) -> Callable[[StoreState], bool]:
    """Whether the sweep is at rest and each last attempt has said how it ended; a cell is done a moment before that."""
    return lambda state: (
        at_rest(state) and all(attempts_of(plan, root, n)[-1]["state"] != "running" for n in range(len(plan.cells)))
    )


def test_a_sweep_is_computed_once_and_its_table_is_complete(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, **ON_SLURM, exclude=[{"attack": "finetune", "defense": "random"}])
    root = tmp_path / "store"
    first = submit(plan, root)
    assert first.cells == len(plan.cells)
    assert len(first.jobs) == 4  # one array a stage
    second = submit(plan, root)  # another person, at the same time
    assert (second.cells, second.elsewhere) == (0, len(plan.cells))
    state = wait_until(plan, root, at_rest, PATIENCE)
    assert {cell.state for cell in state.cells} == {"done"}
    assert {cell.attempt for cell in state.cells} == {1}
    assert complete(plan, root)
    lines = list(csv.DictReader(io.StringIO(report(plan, root, ["rows"], "csv", None, tmp_path / "tiny.yaml"))))
    assert len(lines) == len(plan.rows)
    assert {float(line["score"]) for line in lines if line["attack"] == "identity"} == {1.0}
    status = read_attempt(root, "train", plan.cells[0].id, 1) or {}
    assert (root / "snapshots" / status["snapshot"] / "rnet").is_dir()
    assert status["job"] == f"{first.jobs[0]}_0"


def test_a_preempted_and_a_killed_task_go_on_and_end_with_the_bits_of_an_undisturbed_run(tmp_path: Path) -> None:
    plan, root = long_training(tmp_path, [0, 1]), tmp_path / "store"
    submit(plan, root)
    wait_until(plan, root, lambda _: trains(root, plan), PATIENCE)
    told, killed = (attempts_of(plan, root, place)[-1] for place in (0, 1))
    subprocess.run(["scancel", "--signal=USR2", told["job"]], check=True)
    os.kill(killed["pid"], signal.SIGKILL)
    state = wait_until(plan, root, ended(plan, root), PATIENCE)
    assert [cell.state for cell in state.cells] == ["done", "done"]
    histories = [[a["state"] for a in attempts_of(plan, root, place)] for place in (0, 1)]
    assert histories == [["preempted", "done"], ["running", "done"]]
    for place, cell in enumerate(plan.cells):
        assert attempts_of(plan, root, place)[-1]["restart"] == 1
        alone = Job(stage=cell.stage, id=cell.id, configuration=plan.configuration(cell))
        assert run_cell(tmp_path / "alone", alone, Worker(token="t")) == "done"
        for name in ("result.json", "model.safetensors"):
            assert (root / cell.label / name).read_bytes() == (tmp_path / "alone" / cell.label / name).read_bytes()


def test_a_task_that_dies_too_often_is_reported_and_retried(tmp_path: Path) -> None:
    plan, root = strict_training(tmp_path), tmp_path / "store"
    submit(plan, root)
    wait_until(plan, root, lambda _: trains(root, plan), PATIENCE)
    os.kill(attempts_of(plan, root, 0)[-1]["pid"], signal.SIGKILL)
    state = wait_until(plan, root, at_rest, PATIENCE)
    assert state.cells[0].state == "failed"
    assert "ended without a word" in state.cells[0].error
    assert submit(plan, root).cells == 0
    assert submit(plan, root, retry=True).cells == 1
    state = wait_until(plan, root, at_rest, PATIENCE)
    assert (state.cells[0].state, state.cells[0].attempt) == ("done", 2)


def test_a_submitter_killed_between_sbatch_and_bookkeeping_loses_and_repeats_nothing(tmp_path: Path) -> None:
    plan, root = long_training(tmp_path, [0], set=["train.epochs=1", "model.width=4"]), tmp_path / "store"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from launch.sweep import submit\n"
        "from launch.sweep.records import submissions\n"
        "from launch.sweep.plan.expand import make_plan\n"
        "save = submissions.save\n"
        "def cut(root, record):\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if record.state == 'submitted' else save(root, record)\n"
        "submissions.save = cut\n"
        "submit.submit(make_plan(Path(sys.argv[1])), Path(sys.argv[2]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "tiny.yaml"), str(root)])
    assert killed.returncode == -signal.SIGKILL
    (record,) = submissions.read_all(root)
    assert (record.state, record.job) == ("intended", None)
    again = submit(plan, root)
    (record,) = submissions.read_all(root)
    assert again.recovered == [record.job]
    assert again.cells == 0
    state = wait_until(plan, root, at_rest, PATIENCE)
    assert [(cell.state, cell.attempt) for cell in state.cells] == [("done", 1)]


def test_what_slurm_refuses_is_told_in_its_own_words_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text("kind: slurm\npartition: nowhere\n")
    long_training(tmp_path, [0])
    plan, root = make_plan(tmp_path / "tiny.yaml", ["cluster=mine"], config_dir=tmp_path), tmp_path / "store"
    with pytest.raises(UserError) as caught:
        submit(plan, root)
    assert str(caught.value).startswith("train (1 CPU, 0.5 GB, 60 min): sbatch: ")
    assert "nvalid partition" in str(caught.value)
    assert [record.state for record in submissions.read_all(root)] == ["void"]
    assert [cell.state for cell in StoreState(plan, root, fresh=True).cells] == ["not submitted"]


def test_cancel_keeps_what_is_saved_and_submit_goes_on_from_there(tmp_path: Path) -> None:
    plan = long_training(tmp_path, [0, 1], resources={"default": {"memory_gb": 0.5}})
    root = tmp_path / "store"
    submit(plan, root)
    wait_until(plan, root, lambda _: (plan.folder(root, plan.cells[0]) / "checkpoints").is_dir(), PATIENCE)
    assert len(cancel(plan, root).jobs) == 2, "the first of its kind has a job of its own"
    state = wait_until(plan, root, at_rest, PATIENCE)
    assert Counter(cell.state for cell in state.cells) == {"not submitted": 2}
    submit(plan, root)
    state = wait_until(plan, root, at_rest, PATIENCE)
    assert Counter(cell.state for cell in state.cells) == {"done": 2}
    assert "goes on after step" in logs(root)


def test_two_nodes_with_two_tasks_each_train_what_one_process_trains(tmp_path: Path) -> None:
    lines = ["dataset.image_size=8", "model.width=4", "train.epochs=1", "train.batch_size=40", "engine.device=cpu",
             "dataset.train_size=200", "train.learning_rate=0.01"]  # fmt: skip
    four = long_training(
        tmp_path, [0], set=[*lines, "engine=ddp"],
        resources={"train": {"nodes": 2, "processes": 2, "memory_gb": 1}},
    )  # fmt: skip
    submit(four, tmp_path / "four")
    state = wait_until(four, tmp_path / "four", at_rest, PATIENCE)
    assert [cell.state for cell in state.cells] == ["done"]
    one = Job(stage="train", id=four.cells[0].id, configuration=run_to_dict(load_config([*lines, "seed=0"])))
    assert run_cell(tmp_path / "one", one, Worker(token="t")) == "done"
    label = f"{one.label}/model.safetensors"
    a, b = (load_file(tmp_path / name / label) for name in ("four", "one"))
    assert max((a[name].double() - b[name].double()).abs().max().item() for name in a) < 1e-4
    assert all(torch.isfinite(value).all() for value in a.values())
