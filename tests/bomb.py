"""What a trusting unpickler must never be given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


class Bomb:
    """Runs a shell command when a trusting unpickler reads it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.target}",)
