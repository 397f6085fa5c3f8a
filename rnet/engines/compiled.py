"""torch.compile where it works on this machine, and the function itself, with the reason told, where it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from rnet.errors import first_line
from rnet.parallel.collectives import rank

logger = logging.getLogger(__name__)


def compiled_where_possible(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through torch.compile; from the first failure of the compiler on, as it is."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    fast, works = torch.compile(function), True

    def call(*args: Any, **settings: Any) -> Any:
        nonlocal works
        if works:
            try:
                return fast(*args, **settings)
            except TorchDynamoException as error:  # of the compiler, not of the function
                works = False
                if rank() == 0:
                    logger.warning("engine.compile=true: not compiled (%s)", first_line(error))
        return function(*args, **settings)

    return call
