"""One failing rank ends all: the watch's rules with quick beats in this process, and processes that raise or die."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from torch.distributed import DistNetworkError, PrefixStore

from rnet.parallel.failures import GRACE_BEATS, SILENT_BEATS, FailureWatch
from rnet.parallel.store import RanksStore, StoreServer
from tests.parallel.multiprocess import Outcome, run_ranks

BEAT = 0.03
SILENCE = SILENT_BEATS * BEAT
# Waits for what must happen; as generous as a busy machine needs.
PATIENCE = 20.0
TOKEN = b"of this test"


@pytest.fixture
def server() -> Iterator[StoreServer]:
    """What rank 0 holds."""
    server = StoreServer("127.0.0.1", 0, TOKEN)
    yield server
    server.close()


class Watched:
    """The ranks of one group as threads of this process, with the messages that would have ended them."""

    def __init__(self, server: StoreServer, world_size: int) -> None:
        self.server = RanksStore("127.0.0.1", server.port, TOKEN, seconds=PATIENCE)
        self.stores: list[RanksStore] = []
        self.world_size = world_size
        self.ends: dict[int, str] = {}
        self.watches: list[FailureWatch] = []

    def start(self, rank: int, **settings: Any) -> FailureWatch:
        self.stores.append(self.server.another())
        store = PrefixStore("watch", self.stores[-1])
        settings = {"beat_seconds": BEAT, **settings}
        watch = FailureWatch(store, rank, self.world_size, end=lambda text: self.ends.update({rank: text}), **settings)
        self.watches.append(watch)
        watch.start()
        return watch

    def beat(self, rank: int) -> None:
        """One beat of a rank that has no watch here."""
        self.server.add(f"watch/beat/{rank}", 1)

    def wait_for_ends(self, *ranks: int) -> dict[int, str]:
        deadline = time.monotonic() + PATIENCE
        while set(self.ends) != set(ranks) and time.monotonic() < deadline:
            time.sleep(BEAT)
        assert set(self.ends) == set(ranks)
        return self.ends


@pytest.fixture
def watched(server: StoreServer) -> Iterator[Watched]:
    group = Watched(server, 3)
    yield group
    for watch in group.watches:
        watch._stop()


def test_a_silent_rank_is_named_by_all_others(watched: Watched) -> None:
    watched.start(0)
    watched.start(1)
    watched.beat(2)
    ends = watched.wait_for_ends(0, 1)
    assert ends[0] == "rank 2 failed (no sign of life for 0 s: killed, or its machine lost); rank 0 stops"
    assert ends[1] == ends[0].replace("rank 0 stops", "rank 1 stops")


def test_a_stall_shorter_than_the_limit_is_forgiven(watched: Watched) -> None:
    watched.world_size = 2
    first = watched.start(0, beat_seconds=0.1)
    for pause in (0.1, 0.1, 0.1 * SILENT_BEATS / 2, 0.1 * SILENT_BEATS / 2, 0.1):
        watched.beat(1)
        time.sleep(pause)
    watched.server.set("watch/finished/1", "")
    first.finish()
    assert watched.ends == {}


def test_a_rank_that_finished_is_not_taken_for_dead_and_rank_0_leaves_last(watched: Watched) -> None:
    watches = [watched.start(rank) for rank in range(3)]
    watches[2].finish()
    last = Thread(target=watches[0].finish, daemon=True)
    last.start()
    time.sleep(SILENCE * 1.5)
    assert last.is_alive()
    watches[1].finish()
    last.join(PATIENCE)
    assert not last.is_alive()
    assert watched.ends == {}


def test_a_failure_is_told_with_its_first_line_and_the_first_failure_wins(watched: Watched) -> None:
    watches = [watched.start(rank) for rank in range(3)]
    watches[1].fail(ValueError("batch_size=7 is odd\nmore"))
    watches[2].fail(KeyError("later"))
    assert watched.wait_for_ends(0) == {0: "rank 1 failed (ValueError: batch_size=7 is odd); rank 0 stops"}


@pytest.mark.parametrize("error", [DistNetworkError("Connection reset"), RuntimeError("[gloo/transport/tcp] closed")])
def test_a_broken_connection_is_blamed_on_the_rank_that_died(watched: Watched, error: RuntimeError) -> None:
    watched.world_size = 2
    watch = watched.start(0)
    watched.beat(1)
    watch.fail(error)
    assert watched.ends == {0: "rank 1 failed (no sign of life for 0 s: killed, or its machine lost); rank 0 stops"}


def test_a_broken_connection_between_living_ranks_is_that_ranks_own_failure(watched: Watched) -> None:
    watches = [watched.start(rank) for rank in range(3)]
    watches[1].fail(DistNetworkError("timed out"))
    ends = watched.wait_for_ends(0, 2)
    assert ends[2] == "rank 1 failed (DistNetworkError: timed out); rank 2 stops"


def test_a_rank_that_never_starts_is_named_after_its_own_longer_limit(watched: Watched) -> None:
    watched.world_size = 2
    limit = 2 * SILENCE
    began = time.monotonic()
    watched.start(0, start_seconds=limit)
    assert watched.wait_for_ends(0) == {0: "rank 1 failed (did not start within 1 s); rank 0 stops"}
    assert time.monotonic() - began >= limit


def test_a_store_that_is_gone_ends_the_others() -> None:
    server = StoreServer("127.0.0.1", 0, TOKEN)
    group = Watched(server, 2)
    group.start(1)
    group.beat(0)
    time.sleep(2 * BEAT)
    server.close()
    assert group.wait_for_ends(1)[1].startswith("the store of the ranks is gone: rank 0 was killed")


def test_a_store_that_never_answers_ends_the_rank() -> None:
    class Unreachable:
        def add(self, key: str, amount: int) -> int:
            Event().wait()
            return 0

    ended: Future[str] = Future()
    FailureWatch(Unreachable(), 1, 2, beat_seconds=BEAT, end=ended.set_result).start()  # type: ignore[arg-type]
    assert ended.result(PATIENCE / 2).startswith("the store of the ranks is gone")


# What rank R does once all have met; all others then wait for it, in a collective (even) or asleep (odd ranks).
PROGRAM = """
import ctypes, os, signal, sys, time
import torch, torch.distributed as dist
from rnet.parallel.launch import launched
from rnet.parallel.processes import process_group

victim, deed = int(sys.argv[1]), sys.argv[2]
me = launched()
with process_group(me, "cpu"):
    dist.barrier()
    if me.rank == victim:
        if deed == "raise":
            print(time.time(), flush=True)
            raise ValueError("a bad batch")
        if deed == "stall":  # holds the interpreter lock, so that none of its threads runs
            ctypes.PyDLL(None).sleep(5)
        print(time.time(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if me.rank % 2 == 0:
        dist.all_reduce(torch.ones(1))
    time.sleep(300)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def seconds_after(victim: Outcome, other: Outcome) -> float:
    return other.ended - float(victim.stdout)


def test_a_rank_that_raises_ends_the_blocked_and_the_sleeping_within_seconds(program: Path) -> None:
    first, failed, last = run_ranks("plain", program, "1", "raise", ranks=3)
    assert failed.returncode == 1
    assert "Traceback (most recent call last)" in failed.stderr.splitlines()[0]
    assert failed.stderr.rstrip().endswith("ValueError: a bad batch")
    for rank, other in ((0, first), (2, last)):
        assert other.returncode == 1
        assert other.stderr == f"rnet: rank 1 failed (ValueError: a bad batch); rank {rank} stops\n"
        assert seconds_after(failed, other) < 10


def test_the_others_learn_why_rank_0_failed_although_it_holds_the_store(program: Path) -> None:
    failed, other = run_ranks("plain", program, "0", "raise")
    assert failed.returncode == other.returncode == 1
    assert failed.stderr.rstrip().endswith("ValueError: a bad batch")
    assert other.stderr == "rnet: rank 0 failed (ValueError: a bad batch); rank 1 stops\n"
    assert seconds_after(failed, other) < 10
    assert seconds_after(failed, other) >= GRACE_BEATS  # its traceback comes first


@pytest.mark.slow
def test_a_killed_rank_is_named_within_30_s_and_a_stalled_one_is_not_taken_for_dead(program: Path) -> None:
    other, killed = run_ranks("plain", program, "1", "stall")
    assert killed.returncode == -9
    assert killed.stdout, "it was to survive its stall"
    assert other.returncode == 1
    message = "rnet: rank 1 failed (no sign of life for 15 s: killed, or its machine lost); rank 0 stops\n"
    assert other.stderr == message
    assert seconds_after(killed, other) < 30


def test_a_killed_rank_0_takes_the_store_along_and_the_others_say_so(program: Path) -> None:
    killed, other = run_ranks("plain", program, "0", "kill")
    assert killed.returncode == -9
    assert other.returncode == 1
    assert "rnet: the store of the ranks is gone: rank 0 was killed, or its machine lost; rank 1 stops" in other.stderr
    assert seconds_after(killed, other) < 30
