"""Batches made by worker processes ahead of time, through torch's DataLoader.

Images do not pass through its queues: workers write them into memory that they share with this process, taken once,
in places that are used again and again. Fresh memory for each batch costs an eighth of the time of decoding it.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from multiprocessing.util import Finalize

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rnet.errors import UserError, first_line

_MOST_WORKERS = 16
_AHEAD = 2
"""Batches that each worker may be ahead."""


def workers_for(wanted: int | None, processes: int) -> int:
    """engine.workers, by default a share of the cores that this process may use. processes: on this machine."""
    if wanted is not None:
        return wanted
    return min(_MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) // processes))


class Workers:
    """`batches(step)` is what `write(step, place)` wrote in a worker process while earlier steps were in use: uint8.

    like: a batch, of any device, whose shape, strides and type all have. Any order is correct; steps in order are fast.
    What is written must be a function of the step alone; each worker makes whole batches in turn, so that which of them
    are there already is all that a restart loses. A batch stays as it is until the next one is asked for. Raises what
    write raises of UserError, and UserError if a worker dies.
    """

    def __init__(self, write: Callable[[int, Tensor], None], *, like: Tensor, workers: int) -> None:
        self._write = write
        self._like = like
        self._workers = workers
        self._next: int | None = None
        self._latest: tuple[int, Tensor] | None = None
        self._running: list[tuple[_Places, Iterator[int | UserError]]] = []
        Finalize(self, _end, args=(self._running,), exitpriority=20)  # before its queues, whose priority is 10

    def __call__(self, step: int) -> Tensor:
        if self._latest is not None and self._latest[0] == step:  # shown before the first step takes it
            return self._latest[1]
        self._latest = None
        if step != self._next:
            self._running.clear()
            self._running.append(self._from(step))
        self._next = None
        places, found = self._running[0]
        places.free_the_one_in_use()
        try:
            place = next(found)
        except (OSError, EOFError) as error:  # what a worker leaves whose batch was on its way
            raise UserError(_died(error)) from error
        except RuntimeError as error:
            if said := worker_died(error):
                raise UserError(said) from error
            raise
        if isinstance(place, UserError):
            raise place
        self._next, self._latest = step + 1, (step, places.use(place))
        return self._latest[1]

    def _from(self, step: int) -> tuple[_Places, Iterator[int | UserError]]:
        places = _Places(self._like, _AHEAD * self._workers + 1)
        loader: DataLoader[int | UserError] = DataLoader(
            _Steps(self._write, places), sampler=_From(step, places), batch_size=None, num_workers=self._workers,
            prefetch_factor=_AHEAD, worker_init_fn=partial(_begin, places.over),
            multiprocessing_context="fork", generator=torch.Generator(),
        )  # fmt: skip
        return places, iter(loader)


class _Places:
    """Room for so many batches, in memory that forked processes share; no file of /dev/shm, which is small in places.

    This process hands out the free ones and takes them back. Workers write into those that they are told. over: a byte,
    not 0 once no batch is wanted any more.
    """

    def __init__(self, like: Tensor, count: int) -> None:
        room = torch.frombuffer(mmap.mmap(-1, count * like.nbytes), dtype=like.dtype)
        self._batches = [one.as_strided(like.shape, like.stride()) for one in room.view(count, -1)]
        self.over = mmap.mmap(-1, 1)
        self._free = deque(range(count))
        self._in_use: int | None = None

    def __getitem__(self, place: int) -> Tensor:
        return self._batches[place]

    def hand_out(self) -> int:
        """A place for a batch to come."""
        assert self._free, "more batches were asked for than there are places"
        return self._free.popleft()

    def use(self, place: int) -> Tensor:
        """The batch there, which stays until it is freed."""
        self._in_use = place
        return self._batches[place]

    def free_the_one_in_use(self) -> None:
        """Its batch is no longer looked at."""
        if self._in_use is not None:
            self._free.append(self._in_use)
            self._in_use = None


def worker_died(error: BaseException) -> str:
    """What to tell the user if the error is torch's about a worker process that ended; it may come at any place."""
    return _died(error) if isinstance(error, RuntimeError) and "DataLoader worker" in str(error) else ""


def _died(error: BaseException) -> str:
    return (
        f"a process that reads images ended before its time ({first_line(error)}); if memory is short, "
        f"lower engine.workers (0 reads in this process), then run the same command again"
    )


class _Steps(Dataset[int | UserError]):
    """What a worker is asked for: the place of the batch that it wrote, or what is wrong with it."""

    def __init__(self, write: Callable[[int, Tensor], None], places: _Places) -> None:
        self._write = write
        self._places = places

    def __getitem__(self, asked: tuple[int, int]) -> int | UserError:
        step, place = asked
        try:
            self._write(step, self._places[place])
        except UserError as error:  # as a value: DataLoader would wrap its message in a traceback
            return error
        return place


class _From(Sampler[tuple[int, int]]):
    """All steps from the first one on, each with the place for its batch."""

    def __init__(self, first: int, places: _Places) -> None:
        self._first = first
        self._places = places

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step in count(self._first):
            yield step, self._places.hand_out()


def _begin(over: mmap.mmap, worker: int) -> None:
    """One thread each, and no part in the signals by which the run is asked to stop: its own end ends the workers."""
    torch.set_num_threads(1)
    gc.freeze()  # what came with the fork is not looked through again, which would copy its pages
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0) if over[0] else None)


def _end(running: list[tuple[_Places, Iterator[int | UserError]]]) -> None:
    """Lets the workers go. While an error's traceback holds their loader, it does not tell them to; then it is
    multiprocessing's SIGTERM, sent to all children when this process ends, that ends them."""
    for places, _ in running:
        places.over[0] = 1
    running.clear()
