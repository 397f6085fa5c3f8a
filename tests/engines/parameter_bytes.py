"""How many bytes of parameters a process holds while it attacks: every live tensor's storage counts, whoever holds it.

Run by each of several processes, or by one: `python -m tests.engines.parameter_bytes FOLDER OVERRIDES...`. It runs
the attack of a configuration whose network is `deep` below, looks at many moments (in every layer's forward and
backward pass, of the victim, of the lower and the upper level; at every operation that makes a tensor while a
checkpoint is taken or the surrogate is measured; between steps), and writes the largest sums to FOLDER/rankR.json.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from rnet.command.guarded import leave_at_once
from rnet.config.run import load_config
from rnet.engines.base import Engine
from rnet.parallel.collectives import rank
from rnet.parallel.launch import launched
from rnet.parallel.processes import process_group
from rnet.stages.stages import attack, train
from rnet.stages.store import Store
from rnet.training.loop import Run
from rnet.training.signals import Preempted

WIDTH, DEPTH = 256, 12
LAYER_BYTES = 4 * WIDTH * WIDTH
MODEL_BYTES = DEPTH * LAYER_BYTES
SMALLEST = LAYER_BYTES // 4
"""Activations and images are smaller than this, weights of the wide layers and their shares are larger."""


class Watch:
    """The largest number of bytes seen at each kind of moment (`peaks`), and the storages seen while saving."""

    def __init__(self) -> None:
        self.on = False
        self.stop = False
        self.moment = "forward"
        self.peaks: dict[str, int] = defaultdict(int)
        self.saving: list[dict[int, int]] = []
        self._known: dict[int, StorageWeakRef] = {}

    def look(self, moment: str = "") -> None:
        """Adds up what is alive now."""
        if not self.on:
            return
        found = self.storages()
        moment = moment or self.moment
        self.peaks[moment] = max(self.peaks[moment], sum(found.values()))
        if moment == "save":
            self.saving.append(found)

    def is_new(self, tensor: Tensor) -> bool:
        """Whether the tensor is large and its bytes have not been seen yet."""
        storage = tensor.untyped_storage()
        return storage.nbytes() >= SMALLEST and storage._cdata not in self._known

    def storages(self) -> dict[int, int]:
        """Address -> bytes of the live floating-point storages that are large enough.

        A storage seen once is followed by a weak reference: autograd may hold what no Python object holds any more.
        """
        for thing in gc.get_objects():
            if not issubclass(type(thing), Tensor) or thing.device.type != "cpu" or not thing.is_floating_point():
                continue
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and (storage := tensor.untyped_storage()).nbytes() >= SMALLEST:
                    self._known.setdefault(storage._cdata, StorageWeakRef(storage))
        found, files = {}, _mapped_checkpoints() if self.moment == "load" else []
        for key, reference in list(self._known.items()):
            if reference.expired():
                del self._known[key]
                continue
            storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
            if storage is not None and storage.nbytes() >= SMALLEST:
                if any(low <= storage.data_ptr() < high for low, high in files):
                    continue  # the system reads a mapped file when it is asked for
                found[storage.data_ptr()] = storage.nbytes()
        return found


watch = Watch()


class Looking(TorchDispatchMode):
    """Looks after every operation that makes a tensor of a layer's size."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = out if isinstance(out, (tuple, list)) else [out]
        if any(isinstance(t, Tensor) and watch.is_new(t) for t in tensors):
            watch.look()
        return out


@contextmanager
def looking(moment: str) -> Iterator[None]:
    """Everything inside is that kind of moment."""
    before, watch.moment = watch.moment, moment
    with Looking():
        yield
    watch.moment = before


def deep(num_classes: int, in_channels: int) -> nn.Module:
    """A network that is all parameters: wide linear layers, each of which looks when it is called."""
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, WIDTH), *layers, nn.Linear(WIDTH, num_classes))
    for module in model:
        if isinstance(module, nn.Linear):
            module.register_forward_hook(_look_in_both_passes)
    return model


def _look_in_both_passes(module: nn.Module, args: Any, out: Tensor) -> None:
    watch.look()
    if out.requires_grad:
        out.register_hook(lambda gradient: watch.look("backward"))


def _engine(method: Any, run: Run, *args: Any, **kwargs: Any) -> Engine:
    """Looks around what the engine does; `stop` is sent to every process in its second step."""
    engine: Any = method(run, *args, **kwargs)
    descend, save, load, finish = engine.descend, engine.save, engine.load, engine.finish
    done = 0

    def descend_and_look(*args: Any) -> Any:
        nonlocal done
        watch.look("before the upper level")
        parts = descend(*args)
        watch.look("between steps")
        done += 1
        if watch.stop and done == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return parts

    def save_and_look() -> Any:
        before = sum(watch.storages().values())
        watch.saving.clear()
        with looking("save"):
            state = save()
        # The copies that are written next are the host's; where that is the device too, they are told apart here.
        kept = {t.untyped_storage().data_ptr() for t in _tensors(state) if engine.rank == 0}
        own = {t.untyped_storage().data_ptr() for t in engine.unwrapped.state_dict().values()}
        watch.peaks["saving adds"] += 0
        for found in watch.saving:
            added = sum(size for address, size in found.items() if address not in kept - own) - before
            watch.peaks["saving adds"] = max(watch.peaks["saving adds"], added)
        watch.peaks["saved"] = sum(t.numel() * t.element_size() for t in _tensors(state))
        return state

    def load_and_look(state: Any) -> None:
        with looking("load"):
            load(state)

    def finish_and_look() -> None:
        with looking("finish"):
            finish()

    engine.descend, engine.save = descend_and_look, save_and_look
    engine.load, engine.finish = load_and_look, finish_and_look
    return engine


def _optimise(method: Any, run: Run, *args: Any, **kwargs: Any) -> None:
    """The training loop and nothing before it; its measurements too."""
    gc.collect()
    measure = run.measure

    def measured(model: nn.Module) -> dict[str, float]:
        with looking("measure"):
            return measure(model)

    object.__setattr__(run, "measure", measured)
    watch.on = True
    try:
        method(run, *args, **kwargs)
    finally:
        watch.on = False


def _around(owner: type, name: str, around: Callable[..., Any]) -> None:
    """Replaces a method by around(method, self, ...)."""
    method = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: around(method, *args, **kwargs))


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)


def _mapped_checkpoints() -> list[tuple[int, int]]:
    """The addresses at which files that end in .pt are mapped."""
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps if line.rstrip().endswith(".pt")]
    return [(int(low, 16), int(high, 16)) for low, high in (line[0].split("-") for line in lines)]


def main() -> None:
    """Trains the victim, then runs the attack and writes down the peaks."""
    folder, overrides = Path(sys.argv[1]), sys.argv[2:]
    watch.stop = "stop" in overrides
    config, store = load_config([line for line in overrides if line != "stop"]), Store(folder / "store")
    torch.set_num_threads(1)
    with process_group(launched(), "cpu"):
        train(config, store)
        _around(Run, "engine", _engine)
        _around(Run, "optimise", _optimise)
        gc.collect()
        gc.freeze()  # what has been there before the attack is no parameter
        with suppress(Preempted):
            attack(config, store)
        gc.collect()
        watch.on = True
        watch.look("after the attack")
        (folder / f"rank{rank()}{'-stopped' if watch.stop else ''}.json").write_text(json.dumps(watch.peaks))
    leave_at_once(0)


if __name__ == "__main__":
    from tests.engines import parameter_bytes  # as the factory's path names it: one watch, not two

    parameter_bytes.main()
