"""What a target of fuzzing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Target:
    """One way into rnet. run: (input, folder to work in) -> nothing; it may raise UserError and nothing else.

    seeds: valid inputs, to be changed. tokens: words that mean something to the parser. weight: its share of all
    inputs, more for what is quick.
    """

    name: str
    run: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...] = ()
    weight: float = 1.0
