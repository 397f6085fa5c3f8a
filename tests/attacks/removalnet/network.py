"""A network of which only the tail is known, as one process sees it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from torch import Tensor

from rnet.engines.lower_level import Network


class OnlyTail(Network):
    """tail: any function of z."""

    def __init__(self, tail: Callable[[Tensor], Tensor]) -> None:
        super().__init__(SimpleNamespace(tail=tail))
