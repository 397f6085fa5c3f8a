"""One rank that fails or dies takes all others down within seconds, whatever launcher started them.

A collective whose partner is gone may never return, and not every launcher ends the other processes. So each rank has
a thread that beats in a store all ranks share, and looks there: rank 0 at every other rank, the others at rank 0. Keys:

    beat/R       counter of rank R, moved every second by its thread, also while its main thread waits in a collective
    failure      JSON {rank, reason}: the first failure, written once
    finished/R   rank R has left the group in order: its beats may stop
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import time
from collections.abc import Callable
from threading import Event, Thread

from torch.distributed import DistError, Store

from rnet.errors import first_line

BEAT_SECONDS = 1.0
# Beats in a row a rank may miss. Long enough for code that holds the interpreter lock, during which no thread runs.
SILENT_BEATS = 15
# Between a failure and the end of the other ranks: the failing rank prints its traceback meanwhile.
GRACE_BEATS = 2
_REASON_LENGTH = 300


def _end_process(message: str) -> None:
    """Says why and ends the process from any thread; nothing here can wait for a lock the main thread holds."""
    os.write(2, f"rnet: {message}\n".encode())
    os._exit(1)


class FailureWatch:
    """Watches over the ranks of one group from start() until finish() or fail().

    store: this watch's own connection to a store all ranks share and nobody else writes to.
    start_seconds: how long a rank may take from the first rank's start() to its own.
    end: what ends this process, given the message; tests put something gentler here.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        *,
        start_seconds: float = 600.0,
        beat_seconds: float = BEAT_SECONDS,
        end: Callable[[str], None] = _end_process,
    ) -> None:
        self._store = store
        self._rank = rank
        self._others = [other for other in range(world_size) if other != rank]
        self._start_beats = max(round(start_seconds / beat_seconds), SILENT_BEATS)
        self._beat_seconds = beat_seconds
        self._end = end
        self._stopped = Event()
        self._rounds = 0
        self._threads = [
            Thread(target=target, name=f"rnet-{target.__name__.strip('_')}", daemon=True)
            for target in (self._watch_ranks, self._watch_store)
        ]

    def start(self) -> None:
        """Starts to beat and to look at the others."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Leaves the group in order. Rank 0 waits for the others: it may hold the store they still need."""
        if self._rank == 0:
            while not self._store.check([f"finished/{other}" for other in self._others]):
                time.sleep(self._beat_seconds / 20)
        self._stop()
        self._store.set(f"finished/{self._rank}", "")

    def fail(self, error: BaseException) -> None:
        """Tells the other ranks why this one ends; the caller raises the error on.

        A broken connection to another rank mostly is the consequence of that rank's end: then this rank waits until
        the watch has found out which one it was, and ends with its name instead of a second traceback.
        """
        if _is_broken_connection(error):
            enough = self._rounds + SILENT_BEATS + GRACE_BEATS
            while self._rounds < enough and self._threads[0].is_alive():
                time.sleep(self._beat_seconds)
        # A store that is gone went with rank 0: then nobody is left to be told.
        with contextlib.suppress(DistError):
            self._note(self._rank, _reason(error))
        self._stop()
        if self._rank == 0:
            # It may hold the store, in which the others have yet to read why. By then the traceback has been printed.
            atexit.register(time.sleep, GRACE_BEATS * self._beat_seconds)

    def _stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=SILENT_BEATS * self._beat_seconds)

    def _note(self, rank: int, reason: str) -> None:
        """Writes the failure down unless one has been before."""
        self._store.compare_set("failure", "", json.dumps({"rank": rank, "reason": reason}))

    def _watch_ranks(self) -> None:
        """Beats and looks, once a second. Misses are counted in own looks: a sleep of the whole machine is none."""
        watched = self._others if self._rank == 0 else [0]
        beats = dict.fromkeys(watched, 0)
        misses = dict.fromkeys(watched, 0)
        try:
            while not self._stopped.is_set():
                self._store.add(f"beat/{self._rank}", 1)
                for other in list(beats):
                    beat = self._store.add(f"beat/{other}", 0)
                    misses[other] = misses[other] + 1 if beat == beats[other] else 0
                    beats[other] = beat
                    if misses[other] and self._store.check([f"finished/{other}"]):
                        del beats[other]
                    elif misses[other] >= (SILENT_BEATS if beat else self._start_beats):
                        self._note(other, self._silence(started=beat > 0))
                if self._store.check(["failure"]):
                    self._follow(**json.loads(self._store.get("failure")))
                    return
                self._rounds += 1
                self._stopped.wait(self._beat_seconds)
        except DistError:
            self._lose_store()

    def _watch_store(self) -> None:
        """A machine that is lost answers nothing at all, and a store waits for an answer forever."""
        rounds, misses = 0, 0
        while not self._stopped.wait(self._beat_seconds):
            misses = misses + 1 if rounds == self._rounds else 0
            rounds = self._rounds
            if misses >= SILENT_BEATS + GRACE_BEATS:
                self._lose_store()
                return

    def _follow(self, rank: int, reason: str) -> None:
        """Ends this process because of a failure, unless it is the one that fail() has just reported itself."""
        if not self._stopped.wait(GRACE_BEATS * self._beat_seconds):
            self._end(f"rank {rank} failed ({reason}); rank {self._rank} stops")

    def _lose_store(self) -> None:
        if not self._stopped.is_set():
            self._end(
                f"the store of the ranks is gone: rank 0 was killed, or its machine lost; rank {self._rank} stops"
            )

    def _silence(self, *, started: bool) -> str:
        if started:
            seconds = SILENT_BEATS * self._beat_seconds
            return f"no sign of life for {seconds:.0f} s: killed, or its machine lost"
        return f"did not start within {self._start_beats * self._beat_seconds:.0f} s"


def _reason(error: BaseException) -> str:
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"[:_REASON_LENGTH]


def _is_broken_connection(error: BaseException) -> bool:
    """Errors of collectives and of the store; gloo raises plain RuntimeErrors that name its source file."""
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
