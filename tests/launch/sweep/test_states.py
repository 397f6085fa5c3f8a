"""The state of a cell from files alone, and what the scheduler's word adds where they are silent."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from launch.sweep.clusters.slurm import Slurm
from launch.sweep.records import submissions
from launch.sweep.records.attempts import BEAT_SECONDS, SILENT_SECONDS, STALE_BEATS, Worker, claim
from launch.sweep.records.submissions import Submission, new_submission
from launch.sweep.states import StoreState
from launch.sweep.submit import Report, _wanted
from rnet.errors import UserError
from tests.launch.sweep.clusters.test_arrays import graph
from tests.launch.sweep.sweeps import GONE, finish, started, submitted

PLAN = graph(1, 1, 1)
ALL = range(len(PLAN.cells))
TRAIN, ATTACK, FINGERPRINT, VERIFY = range(4)


def look(root: Path, said: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(state, alive) of the plan's cells when Slurm says so of its tasks; None: it does not answer."""

    def answer(self: Slurm, submissions: object) -> dict[str, str]:
        if said is None:
            raise UserError("Unable to contact slurm controller")
        return said

    monkeypatch.setattr(Slurm, "states", answer)
    return [(cell.state, cell.alive) for cell in StoreState(PLAN, root, fresh=True).cells]


def test_nothing_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(tmp_path, {}, monkeypatch) == [("not submitted", False)] * 4


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("pending", ("pending", True)),
        ("running", ("running", True)),
        ("failed", ("failed", False)),
        ("timed out", ("timed out", False)),
        ("lost", ("lost", False)),
        ("done", ("lost", False)),  # it ended and no attempt tells of it
        ("cancelled", ("not submitted", False)),
        (None, ("lost", False)),  # Slurm never heard of it
    ],
)
def test_a_submitted_cell_without_an_attempt_is_what_slurm_says(
    said: str | None, expected: tuple[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(tmp_path, PLAN, [TRAIN], job="7")
    assert look(tmp_path, {} if said is None else {"7_0": said}, monkeypatch)[TRAIN] == expected


@pytest.mark.parametrize(
    ("end", "said", "expected"),
    [
        (None, "running", ("running", True)),
        (None, "pending", ("preempted", True)),  # requeued without a word
        (None, "timed out", ("timed out", False)),
        (None, "lost", ("lost", False)),
        (None, "failed", ("failed", False)),
        (None, "done", ("lost", False)),
        (None, "cancelled", ("not submitted", False)),
        ("preempted", "pending", ("preempted", True)),
        ("preempted", "failed", ("failed", False)),
        ("failed", "running", ("failed", False)),  # its own word counts for more
        ("blocked", "failed", ("blocked", False)),
    ],
)
def test_an_attempts_own_word_counts_for_more_than_slurms(
    end: str | None, said: str, expected: tuple[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = submitted(tmp_path, PLAN, [TRAIN], job="7")
    started(tmp_path, PLAN, TRAIN, record, end, task="7_0", **({"error": "x"} if end else {}))
    assert look(tmp_path, {"7_0": said}, monkeypatch)[TRAIN] == expected


@pytest.mark.parametrize("end", [None, "preempted"])
def test_a_task_that_slurm_calls_running_but_that_is_silent_is_lost(
    end: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = submitted(tmp_path, PLAN, [TRAIN], job="7")
    started(tmp_path, PLAN, TRAIN, record, end, task="7_0")
    word = end or "running"
    assert look(tmp_path, {"7_0": "running long"}, monkeypatch)[TRAIN] == (word, True)  # heard of just now
    later = time.time() + SILENT_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert look(tmp_path, {"7_0": "running"}, monkeypatch)[TRAIN] == (word, True)  # its next incarnation has started
    assert look(tmp_path, {"7_0": "running long"}, monkeypatch)[TRAIN] == ("lost", False)
    state = StoreState(PLAN, tmp_path, fresh=True)
    assert (state.cells[TRAIN].silent, state.cells[TRAIN].task) == (True, "7_0")
    assert "silent for over 10 minutes" in state.cells[TRAIN].error


def test_a_packed_task_is_silent_only_if_all_its_cells_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = new_submission(PLAN, "train", [[TRAIN, ATTACK]], {}, None)
    record.job, record.state = "7", "submitted"
    submissions.save(tmp_path, record)
    started(tmp_path, PLAN, TRAIN, record, "preempted", task="7_0")
    assert look(tmp_path, {"7_0": "running long"}, monkeypatch)[ATTACK] == ("pending", True)
    later = time.time() + SILENT_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert look(tmp_path, {"7_0": "running long"}, monkeypatch)[:2] == [("lost", False)] * 2
    started(tmp_path, PLAN, ATTACK, record, task="7_0")
    assert look(tmp_path, {"7_0": "running long"}, monkeypatch)[:2] == [("preempted", True), ("running", True)]


def test_a_task_that_slurm_does_not_know_is_lost_once_its_heartbeat_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = new_submission(PLAN, "train", [[TRAIN, ATTACK], [FINGERPRINT]], {}, None)
    record.job, record.state = "7", "submitted"
    submissions.save(tmp_path, record)
    started(tmp_path, PLAN, TRAIN, record, task="7_0")
    assert look(tmp_path, {}, monkeypatch)[:3] == [("running", True), ("pending", True), ("lost", False)]
    later = time.time() + STALE_BEATS * BEAT_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert look(tmp_path, {}, monkeypatch)[:3] == [("lost", False)] * 3


def test_a_result_counts_for_more_than_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = submitted(tmp_path, PLAN, [TRAIN], job="7")
    started(tmp_path, PLAN, TRAIN, record, task="7_0")
    finish(tmp_path, PLAN.cells[TRAIN].label)
    assert look(tmp_path, {"7_0": "failed"}, monkeypatch)[TRAIN] == ("done", False)


def test_without_slurms_answer_files_are_believed_and_the_trouble_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = submitted(tmp_path, PLAN, [TRAIN, ATTACK], job="7")
    started(tmp_path, PLAN, TRAIN, record, task="7_0")
    assert look(tmp_path, None, monkeypatch)[:2] == [("running", True), ("pending", True)]
    assert "Unable to contact" in StoreState(PLAN, tmp_path, fresh=True).trouble


def test_a_newer_submission_makes_a_failed_cell_pending_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(tmp_path, PLAN, TRAIN, submitted(tmp_path, PLAN, [TRAIN], job="7"), "failed", task="7_0", error="x")
    submitted(tmp_path, PLAN, [TRAIN], job="8", dead={PLAN.cells[TRAIN].label: 1})
    assert look(tmp_path, {"7_0": "failed", "8_0": "pending"}, monkeypatch)[TRAIN] == ("pending", True)


@pytest.mark.parametrize("end", [None, "preempted"])
def test_what_was_cancelled_is_not_submitted(end: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = submitted(tmp_path, PLAN, [TRAIN, ATTACK], job="7")
    started(tmp_path, PLAN, TRAIN, record, end, task="7_0", **({"error": "x"} if end else {}))
    record.state = "cancelled"
    submissions.save(tmp_path, record)
    assert look(tmp_path, {"7_0": "cancelled"}, monkeypatch) == [("not submitted", False)] * 4


def test_a_cell_of_a_process_that_is_gone_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = submitted(tmp_path, PLAN, [TRAIN, ATTACK])
    record.profile = {"kind": "local"}
    submissions.save(tmp_path, record)
    started(tmp_path, PLAN, TRAIN, record)
    assert look(tmp_path, {}, monkeypatch)[:2] == [("running", True), ("pending", True)]
    (path,) = (tmp_path / "attempts" / "train").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 2**22 + 1}))
    record.job = GONE
    submissions.save(tmp_path, record)
    assert look(tmp_path, {}, monkeypatch)[:2] == [("lost", False), ("lost", False)]


def test_a_cell_whose_result_was_set_aside_is_lost_and_handed_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = submitted(tmp_path, PLAN, [TRAIN], job=GONE)
    record.profile = {"kind": "local"}
    submissions.save(tmp_path, record)
    started(tmp_path, PLAN, TRAIN, record, "done")
    finish(tmp_path, PLAN.cells[TRAIN].label)
    assert look(tmp_path, {}, monkeypatch)[TRAIN] == ("done", False)
    (tmp_path / PLAN.cells[TRAIN].label).rename(tmp_path / "aside")
    assert look(tmp_path, {}, monkeypatch)[TRAIN] == ("lost", False)
    assert TRAIN in _wanted(PLAN, StoreState(PLAN, tmp_path, fresh=True), ALL, False, Report(), "slurm")


def test_retry_takes_what_failed_and_the_parents_it_misses_and_submit_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = submitted(tmp_path, PLAN, [TRAIN, ATTACK], job="7")
    started(tmp_path, PLAN, TRAIN, record, "failed", task="7_0", error="x")
    started(tmp_path, PLAN, ATTACK, record, "blocked", task="7_1", error="y")
    look(tmp_path, {"7_0": "failed", "7_1": "failed"}, monkeypatch)
    state = StoreState(PLAN, tmp_path, fresh=True)
    assert _wanted(PLAN, state, ALL, retry=True, report=Report(), kind="slurm") == [TRAIN, ATTACK]
    assert (
        _wanted(PLAN, state, ALL, retry=False, report=Report(), kind="slurm") == []
    )  # the others could only be blocked
    finish(tmp_path, PLAN.cells[TRAIN].label)
    state = StoreState(PLAN, tmp_path, fresh=True)
    assert _wanted(PLAN, state, ALL, retry=True, report=Report(), kind="slurm") == [ATTACK]
    assert _wanted(PLAN, state, ALL, retry=False, report=Report(), kind="slurm") == [FINGERPRINT]


def test_what_another_person_submitted_is_not_submitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = submitted(tmp_path, PLAN, [TRAIN, FINGERPRINT], job="7")
    theirs.sweep = "theirs"
    submissions.save(tmp_path, theirs)
    look(tmp_path, {"7_0": "running", "7_1": "pending"}, monkeypatch)
    state = StoreState(PLAN, tmp_path, fresh=True)
    report = Report()
    assert _wanted(PLAN, state, ALL, retry=False, report=report, kind="slurm") == [ATTACK, VERIFY]
    assert report.elsewhere == 2
    assert state.assigned[PLAN.cells[TRAIN].label].task == "7_0"


def test_slurm_is_asked_once_for_all_arrays_and_then_only_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(self: Slurm, submissions: list[Submission]) -> dict[str, str]:
        asked.append([submission.job for submission in submissions])
        return {"7_0": "pending", "8_0": "pending"}

    monkeypatch.setattr(Slurm, "states", answer)
    submitted(tmp_path, PLAN, [TRAIN], job="7")
    submitted(tmp_path, PLAN, [ATTACK], job="8")
    for _ in range(3):
        assert StoreState(PLAN, tmp_path).cells[ATTACK].state == "pending"
    assert asked == [["7", "8"]]


def test_the_states_of_ten_thousand_cells_take_seconds_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = graph(500, 4, 4)
    monkeypatch.setattr(Slurm, "states", lambda self, _: {f"7_{n}": "pending" for n in range(10_000)})
    submitted(tmp_path, plan, range(10_000), job="7")
    (tmp_path / "attempts" / "verify").mkdir(parents=True)
    for cell in plan.cells[:2000]:
        (tmp_path / cell.label).mkdir(parents=True)
        (tmp_path / cell.label / "result.json").touch()
    started = time.process_time()
    cells = StoreState(plan, tmp_path).cells
    assert time.process_time() - started < 4  # 0.3 on an idle machine
    assert sum(cell.state == "done" for cell in cells) == 2000


@pytest.mark.parametrize("kind", ["slurm", "local"])
def test_cells_whose_parents_run_where_their_cluster_cannot_wait_for_them_are_left(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(tmp_path, PLAN, [TRAIN], job="7")
    look(tmp_path, {"7_0": "pending"}, monkeypatch)
    report = Report()
    found = _wanted(PLAN, StoreState(PLAN, tmp_path, fresh=True), ALL, False, report, kind)
    assert (found, report.waiting) == (([ATTACK, FINGERPRINT, VERIFY], 0) if kind == "slurm" else ([], 3))


def test_a_cell_that_is_computed_by_hand_is_not_waited_for_by_tasks(tmp_path: Path) -> None:
    cell = PLAN.cells[TRAIN]
    assert claim(tmp_path, cell.stage, cell.id, Worker(token="by-hand")) is not None
    report = Report()
    assert _wanted(PLAN, StoreState(PLAN, tmp_path, ask=False), ALL, False, report, "slurm") == []
    assert (report.elsewhere, report.waiting) == (1, 3)
