"""Batches made by worker processes ahead of time, through torch's DataLoader."""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rnet.errors import UserError, first_line

_MOST_WORKERS = 16


def workers_for(wanted: int | None, processes: int) -> int:
    """engine.workers, by default a share of the cores that this process may use. processes: on this machine."""
    if wanted is not None:
        return wanted
    return min(_MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) // processes))


class Workers:
    """`batches(step)` is `produce(step)`, made in a worker process while earlier steps are in use.

    Any order is correct; steps in order are fast. produce must be a function of the step alone; each worker makes whole
    batches in turn, so that which of them are there already is all that a restart loses. Raises what produce raises of
    UserError, and UserError if a worker dies.
    """

    def __init__(self, produce: Callable[[int], Tensor], *, workers: int, pin: bool) -> None:
        self._produce = produce
        self._workers = workers
        self._pin = pin
        self._next: int | None = None
        self._latest: tuple[int, Tensor] | None = None
        self._running: list[Iterator[Tensor | UserError]] = []
        weakref.finalize(self, self._running.clear)  # at the latest before multiprocessing waits for its children

    def __call__(self, step: int) -> Tensor:
        if self._latest is not None and self._latest[0] == step:  # shown before the first step takes it
            return self._latest[1]
        if step != self._next:
            self._running.clear()
            self._running.append(self._from(step))
        self._next = None
        try:
            found = next(self._running[0])
        except (OSError, EOFError) as error:  # what a worker leaves whose batch was on its way
            raise UserError(_died(error)) from error
        except RuntimeError as error:
            if said := worker_died(error):
                raise UserError(said) from error
            raise
        if isinstance(found, UserError):
            raise found
        self._next, self._latest = step + 1, (step, found)
        return found

    def _from(self, step: int) -> Iterator[Tensor | UserError]:
        loader: DataLoader[Tensor | UserError] = DataLoader(
            _Steps(self._produce), sampler=_From(step), batch_size=None, num_workers=self._workers,
            pin_memory=self._pin, worker_init_fn=_begin,
            multiprocessing_context="fork", generator=torch.Generator(),
        )  # fmt: skip
        return iter(loader)


def worker_died(error: BaseException) -> str:
    """What to tell the user if the error is torch's about a worker process that ended; it may come at any place."""
    return _died(error) if isinstance(error, RuntimeError) and "DataLoader worker" in str(error) else ""


def _died(error: BaseException) -> str:
    return (
        f"a process that reads images ended before its time ({first_line(error)}); if memory or /dev/shm is short, "
        f"lower engine.workers (0 reads in this process), then run the same command again"
    )


class _Steps(Dataset[Tensor | UserError]):
    """What a worker asks for: the batch of a step, or what is wrong with it."""

    def __init__(self, produce: Callable[[int], Tensor]) -> None:
        self._produce = produce

    def __getitem__(self, step: int) -> Tensor | UserError:
        try:
            return self._produce(step)
        except UserError as error:  # as a value: DataLoader would wrap its message in a traceback
            return error


class _From(Sampler[int]):
    """All steps from the first one on."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        return count(self._first)


def _begin(worker: int) -> None:
    """One thread each, and no part in the signals by which the run is asked to stop: its own end ends the workers."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
