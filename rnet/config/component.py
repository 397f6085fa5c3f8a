"""What the configuration of every component has. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ComponentConfig:
    """Base of the configurations of attacks, defences, data sets, models and engines.

    Fields are numbers, words, booleans, lists of them, or None. The string after a field is what rnet explain says.
    """

    name: str = ""
    """Which component: a name that rnet list shows, or package.module:Name."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
