"""Configurations as plain data: to read, to save, and to name by their content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml

from rnet.config.components import GROUPS, REGISTRIES
from rnet.config.run import RunConfig
from rnet.config.typed import component_class
from rnet.errors import UserError

LEGACY_KEYS: dict[str, dict[str, Any]] = {"dataset": {"attribute": None}, "model": {"factory": None}}
"""Keys that every configuration of a group had when ids were first made; part of the ids of those without them."""


def as_dict(config: Any, *, hashed_only: bool = False) -> dict[str, Any]:
    """A component's dataclass as a plain dict. hashed_only leaves out fields that cannot change a result (paths)."""
    return {name: getattr(config, name) for name in _field_names(config.__class__, hashed_only)}


def hashed(group: str, config: Any) -> dict[str, Any]:
    """What an id says of a component: its name, its settings and, of a plugin, which code it was."""
    code = REGISTRIES[group].provenance(config.name) if group in REGISTRIES else {}
    return {**LEGACY_KEYS.get(group, {}), **as_dict(config, hashed_only=True), **code}


@lru_cache
def _field_names(kind: type, hashed_only: bool) -> list[str]:
    fields = dataclasses.fields(kind)
    return [field.name for field in fields if not (hashed_only and field.metadata.get("execution_only", False))]


def to_yaml(document: dict[str, Any]) -> str:
    """A document to read: sorted keys, block style. Shown and saved."""
    return yaml.safe_dump(document, sort_keys=True, default_flow_style=False, allow_unicode=True)


def content_id(document: dict[str, Any]) -> str:
    """16 hexadecimal digits that name a document by its content, whatever the order of keys and shared objects."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_to_dict(run: RunConfig) -> dict[str, Any]:
    """The whole resolved configuration as plain data, for `--print-config`."""
    return {
        field.name: as_dict(value) if dataclasses.is_dataclass(value := getattr(run, field.name)) else value
        for field in dataclasses.fields(run)
    }


def run_from_dict(document: Mapping[str, Any]) -> RunConfig:
    """The configuration of which run_to_dict made the document; nothing is composed.

    Raises UserError for components and keys that this code does not know.
    """
    try:
        groups = {group: component_class(group, document[group].get("name"))(**document[group]) for group in GROUPS}
        return RunConfig(**{**document, **groups})
    except (KeyError, TypeError) as error:
        raise UserError(f"the configuration is of another version of rnet: {error}") from None
