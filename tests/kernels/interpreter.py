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

OPS = ("latent_step", "distillation_loss", "partners", "admissible_mix", "philox")


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
    import triton

    if triton.__version__.startswith("3.6."):
        _convert_single_elements()
    _fuse_multiply_add()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy's on infinities and NaN, which are tested
    for name in OPS:
        module = importlib.import_module(f"rnet.kernels.{name}")
        getattr(module, f"{name}_op").register_kernel("cpu")(module.by_triton)


def _convert_single_elements() -> None:
    """Triton 3.6, torch 2.11's, takes int() of an array of one element, which numpy 2.4 refuses; 3.7 does this."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_convert(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_convert


def _fuse_multiply_add() -> None:
    """numpy rounds the product of float32 numbers, which the instruction does not; in float64 the product is exact."""
    import numpy as np
    from triton.runtime import interpreter

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return interpreter.TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = fma


def _call(call: bytes) -> bytes:
    function, args, kwargs = pickle.loads(call)
    return pickle.dumps(function(*args, **kwargs))
