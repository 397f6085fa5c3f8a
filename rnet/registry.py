"""Names to components: a new one is its file, its configuration's dataclass and one line in its table."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from rnet.errors import unknown_name


class Registry:
    """Components by name, imported only when one is built; their configurations need no import of theirs.

    table: name -> (ComponentConfig, "module:Component"); place: what errors call the name.
    """

    def __init__(self, place: str, table: Mapping[str, tuple[type, str]]) -> None:
        self._place = place
        self._table = dict(table)

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(self._table)

    def config_class(self, name: str) -> type:
        """The configuration dataclass of a component. Raises UserError for an unknown name."""
        return self._entry(name)[0]

    def build(self, config: Any) -> Any:
        """The component made from its configuration (config.name says which), which is checked."""
        module, component = self._entry(config.name)[1].split(":")
        return getattr(importlib.import_module(module), component)(config)

    def _entry(self, name: str) -> tuple[type, str]:
        if name not in self._table:
            raise unknown_name(self._place, name, self._table)
        return self._table[name]
