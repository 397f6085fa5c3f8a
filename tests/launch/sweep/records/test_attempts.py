"""Attempts: one number each, and only the current one goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launch.sweep.records import attempts
from launch.sweep.records.attempts import SUPERSEDED_EXIT, Superseded, Worker, claim, latest_attempt, newest_attempts
from rnet.errors import UserError
from rnet.storage.json_files import read_json, write_json
from tests.launch.sweep.sweeps import finish

CELL = "0123456789abcdef"
HERE = Worker(token="t", job="7_1")
ELSEWHERE = Worker(token="u", job="8_1")


def test_attempts_are_numbered_and_the_newest_is_current(tmp_path: Path) -> None:
    first = claim(tmp_path, "train", CELL, HERE)
    assert first is not None
    first.check()
    first.finish("failed", error="out of luck")
    second = claim(tmp_path, "train", CELL, ELSEWHERE)
    assert second is not None
    assert (first.number, second.number) == (1, 2)
    second.check()
    with pytest.raises(Superseded, match="attempt 1"):
        first.check()
    assert newest_attempts(tmp_path, "train") == {CELL: 2}
    status = latest_attempt(tmp_path, "train", CELL)
    assert status is not None
    assert (status["state"], status["job"], status["token"]) == ("running", "8_1", "u")


def test_many_that_start_at_once_get_different_numbers(tmp_path: Path) -> None:
    numbers: list[int] = []
    start = threading.Barrier(8)

    def one() -> None:
        start.wait()
        found = claim(tmp_path, "train", CELL, HERE)  # the same job: none waits for another
        assert found is not None
        numbers.append(found.number)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


def test_a_requeued_job_replaces_its_own_earlier_incarnation_at_once(tmp_path: Path) -> None:
    claim(tmp_path, "train", CELL, HERE)
    started = time.monotonic()
    again = claim(tmp_path, "train", CELL, Worker(token="t", job="7_1", restart=1), poll=10)
    assert again is not None
    assert again.number == 2
    assert time.monotonic() - started < 5


def test_another_jobs_attempt_is_waited_for_while_its_heart_beats(tmp_path: Path) -> None:
    running = claim(tmp_path, "train", CELL, HERE)
    assert running is not None
    running.beat(every=0.02)

    def end() -> None:
        time.sleep(0.5)
        finish(tmp_path, f"train/{CELL}")
        assert running is not None
        running.finish("done")

    thread = threading.Thread(target=end)
    thread.start()
    assert claim(tmp_path, "train", CELL, ELSEWHERE, poll=0.1) is None  # finished meanwhile: nothing to claim
    thread.join()
    assert newest_attempts(tmp_path, "train") == {CELL: 1}


def test_an_attempt_whose_heart_stopped_is_replaced(tmp_path: Path) -> None:
    claim(tmp_path, "train", CELL, HERE)
    found = claim(tmp_path, "train", CELL, ELSEWHERE, poll=0.02)
    assert found is not None
    assert found.number == 2


def test_an_attempt_known_to_be_dead_is_not_watched(tmp_path: Path) -> None:
    claim(tmp_path, "train", CELL, HERE)
    started = time.monotonic()
    found = claim(tmp_path, "train", CELL, ELSEWHERE, dead=1, poll=10)
    assert found is not None
    assert time.monotonic() - started < 5


def test_an_attempt_of_a_process_that_is_gone_is_not_watched(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from launch.sweep.records.attempts import *;"
        f"claim(Path({str(tmp_path)!r}), 'train', {CELL!r}, Worker(token='t'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    started = time.monotonic()
    found = claim(tmp_path, "train", CELL, Worker(token="u"), poll=10)
    assert found is not None
    assert found.number == 2
    assert time.monotonic() - started < 5


def test_the_heartbeat_ends_a_process_that_was_replaced(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from launch.sweep.records.attempts import *;"
        f"a = claim(Path({str(tmp_path)!r}), 'train', {CELL!r}, Worker(token='t', job='7_1'));"
        "a.beat(every=0.05); print('started', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        claim(tmp_path, "train", CELL, HERE)
        assert process.wait(timeout=30) == SUPERSEDED_EXIT


def test_a_process_that_is_a_zombie_is_dead() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    deadline = time.monotonic() + 10
    while attempts.process_alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not attempts.process_alive(child)
    os.waitpid(child, 0)
    assert attempts.process_alive(os.getpid())


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"text": "a" * 100_000})
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write_json(path, {"text": "ab"[number % 2] * 100_000})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(200):
            text = (read_json(path) or {})["text"]
            assert len(text) == 100_000
            assert len(set(text)) == 1
    finally:
        stop.set()
        thread.join()
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []


def test_a_full_disk_is_one_clear_message_and_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left.*free some space"):
        write_json(tmp_path / "a.json", {})
    assert os.listdir(tmp_path) == []


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": 1})[:-2])
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
