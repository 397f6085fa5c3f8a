"""The identity's configuration. No torch here, so that sweeps of thousands of runs are planned without it."""

from __future__ import annotations

from dataclasses import dataclass

from rnet.attacks.config import AttackConfig


@dataclass(frozen=True, kw_only=True)
class IdentityConfig(AttackConfig):
    """Nothing to set: the suspect is an exact copy of the victim."""

    name: str = "identity"
    """The attack's name."""

    def check(self) -> None:
        """There is nothing to refuse."""
