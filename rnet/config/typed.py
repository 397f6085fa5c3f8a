"""From settings to the dataclass of a component: every key and type checked, components inside of components."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from rnet.config.checks import check_largest
from rnet.config.component import ComponentConfig
from rnet.config.components import REGISTRIES
from rnet.config.values import field_types, typed_fields
from rnet.config.yaml_files import place_of
from rnet.errors import UserError
from rnet.training.config import TrainConfig

Settings = Mapping[str, Any]
"""By field: a Word of a file, text of the command line or a Python value; of a component in it, its Settings."""


def component(group: str, settings: Settings, inner: Callable[[str, Settings], Any] | None = None) -> Any:
    """A component's dataclass; settings names it and says what differs from its defaults. A seed not given stays None.

    inner: makes the component of another group that a field holds (attack.model.*) from its settings. Raises UserError
    for unknown keys and wrong types.
    """
    named = settings.get("name")
    try:
        kind = component_class(group, None if named is None else str(named))
    except UserError as error:
        raise UserError(f"{place_of(named)}{error}") from error
    held = held_components(kind)
    plain = {key: value for key, value in settings.items() if key not in held}
    found = typed_fields("key", kind, plain, prefix=f"{group}.")
    check_largest(group, found)
    for key in settings.keys() & held:
        given = settings[key]
        if given is None or isinstance(given, held[key]):
            found[str(key)] = given
        elif given != "" and not getattr(given, "absent", False):
            found[str(key)] = (inner or component)(str(key), given)
    if named is not None:
        found["name"] = REGISTRIES[group].full_name(str(named)) if group in REGISTRIES else str(named)
    return kind(**found)


def typed_dataclass(group: str, kind: type, values: Settings) -> Any:
    """An instance of a configuration dataclass. Raises UserError for unknown keys and wrong types."""
    return kind(**typed_fields("key", kind, values, prefix=f"{group}."))


def component_class(group: str, name: str | None) -> type:
    """The dataclass that configures a component of a group; without a name, the group's default."""
    if group not in REGISTRIES:
        return TrainConfig
    return REGISTRIES[group].config_class(name or REGISTRIES[group].base().name)


@lru_cache
def held_components(kind: type) -> dict[str, type]:
    """The fields of a component's dataclass that hold a component's dataclass, or None, and which."""
    found = {}
    for name, hint in field_types(kind).items():
        for option in typing.get_args(hint) or (hint,):
            if isinstance(option, type) and issubclass(option, ComponentConfig):
                found[name] = option
    return found


def without_files(config: Any) -> Any:
    """A component without what it takes from files: those fields, and the fields about them, at their defaults."""
    fields = dataclasses.fields(config)
    files = [field.name for field in fields if field.metadata.get("file")]
    about = [
        field for field in fields if any(field.name == name or field.name.startswith(f"{name}_") for name in files)
    ]
    return dataclasses.replace(config, **{field.name: field.default for field in about})
