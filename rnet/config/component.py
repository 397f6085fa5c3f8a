"""What the configuration of every component has. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ComponentConfig:
    """Base of the configurations of attacks, defences, data sets, models and engines.

    Fields are numbers, words, booleans, lists of them, None, or a component's configuration (attack.model.name). The
    string after a field is what rnet explain says. A field's metadata says what ids make of it: execution_only,
    nothing; file, the content and not the path; hashed_if_set, nothing while it has its default; registry (which one),
    also which code it was, where the field names a component or holds its configuration.
    """

    name: str = ""
    """Which component: a name that rnet list shows, or package.module:Name."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
