"""Runs a function in another process in which the ops, on CPU tensors, are the Triton kernels under its interpreter.

The interpreter is chosen by an environment variable when Triton is first imported, hence the process of its own.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

OPS = ("latent_step", "distillation_loss", "partners", "admissible_mix")


def interpreted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), computed there. The function must be importable by name; its exceptions come back."""
    # Pickled here: multiprocessing's own pickler would hand tensors over as shared memory, by file descriptor.
    call = pickle.dumps((function, args, kwargs))
    return pickle.loads(_process().submit(_call, call).result())


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start)


def _start() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import importlib
    import warnings

    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy's on infinities and NaN, which are tested
    for name in OPS:
        op = getattr(importlib.import_module(f"rnet.kernels.{name}"), f"{name}_op")
        op.register_kernel("cpu")(importlib.import_module(f"rnet.kernels.triton.{name}").launch)


def _call(call: bytes) -> bytes:
    function, args, kwargs = pickle.loads(call)
    return pickle.dumps(function(*args, **kwargs))
