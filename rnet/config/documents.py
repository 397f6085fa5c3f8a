"""Configurations as plain data: to read, to save, and to name by their content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rnet.config.components import GROUPS, REGISTRIES
from rnet.config.run import RunConfig
from rnet.config.typed import component_class, held_components
from rnet.config.yaml_files import BoundedLoader, read_text
from rnet.errors import UserError, first_line

LEGACY_KEYS: dict[str, dict[str, Any]] = {"dataset": {"attribute": None}, "model": {"factory": None}}
"""Keys that every configuration of a group had when ids were first made; part of the ids of those without them."""


def as_dict(config: Any) -> dict[str, Any]:
    """A component's dataclass as a plain dict, and so are the components in it."""
    values = {name: getattr(config, name) for name in _field_names(config.__class__)}
    return {name: as_dict(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()}


def hashed(group: str, config: Any) -> dict[str, Any]:
    """What an id says of a component: its name, its settings and, of a plugin, which code it was.

    A file is named by its content (KEY_sha256), whatever its path. Keys added since ids were first made are left out
    where they are not set. Raises UserError for a file that cannot be read.
    """
    code = REGISTRIES[group].provenance(config.name) if group in REGISTRIES else {}
    return {**LEGACY_KEYS.get(group, {}), **_hashed_fields(group, config), **code}


def _hashed_fields(place: str, config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("file"):
            if value is not None:
                found[f"{field.name}_sha256"] = file_digest(f"{place}.{field.name}", value)
        elif field.metadata.get("hashed_if_set") and value == _default(field):
            continue
        elif not field.metadata.get("execution_only"):
            nested = dataclasses.is_dataclass(value)
            found[field.name] = _hashed_fields(f"{place}.{field.name}", value) if nested else value
            if value is not None and (registry := field.metadata.get("registry")):
                code = registry.provenance(value.name if nested else value)
                found |= {f"{field.name}_{key}": said for key, said in code.items()}
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def file_digest(setting: str, path: str) -> str:
    """The file's SHA-256. Every document that builds on it needs it, so it is read once."""
    try:
        file = Path(path).expanduser()
        about = file.stat()
        if stat.S_ISREG(about.st_mode):  # a pipe would be waited for
            return _digest(file, about.st_size, about.st_mtime_ns)
        problem = "is no file"
    except OSError as error:
        problem = str(error.strerror)
    except (RuntimeError, ValueError) as error:  # ~nobody, a zero byte
        problem = str(error).rstrip(".")
    raise UserError(f"{setting}={path!r}: {problem}; name a file")


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@lru_cache
def _field_names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def to_yaml(document: dict[str, Any]) -> str:
    """A document to read: sorted keys, block style. Shown and saved."""
    return yaml.dump(document, Dumper=_Whole, sort_keys=True, default_flow_style=False, allow_unicode=True)


class _Whole(yaml.SafeDumper):
    """Writes what stands in several places in each of them, so that the text depends on the content alone."""

    def ignore_aliases(self, data: Any) -> bool:
        """Of everything."""
        return True


def flattened(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flattened(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def read_document(place: Path) -> dict[str, Any]:
    """The document in a file that to_yaml wrote. Raises UserError, naming the file, for what no document can be."""
    try:
        loader = _Unshared(read_text(place), str(place))
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise UserError(f"{place} is not the document of a stage: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{place} is not the document of a stage but a {type(found).__name__}")
    return found


class _Unshared(BoundedLoader):
    """Reads no aliases, which to_yaml does not write, and which may stand for far more than a text is long."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One value, with those inside of it."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


def content_id(document: dict[str, Any]) -> str:
    """16 hexadecimal digits that name a document by its content, whatever the order of keys and shared objects."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_to_dict(run: RunConfig) -> dict[str, Any]:
    """The whole resolved configuration as plain data, for `--print-config`."""
    return {field.name: plain(getattr(run, field.name)) for field in dataclasses.fields(run)}


def plain(value: Any) -> Any:
    """A value of RunConfig as plain data: a component, components by name, or what is plain already."""
    if isinstance(value, dict):
        return {name: as_dict(component) for name, component in value.items()}
    return as_dict(value) if dataclasses.is_dataclass(value) else value


def run_from_dict(document: Mapping[str, Any]) -> RunConfig:
    """The configuration of which run_to_dict made the document; nothing is composed.

    Raises UserError for components and keys that this code does not know.
    """
    try:
        components = {group: _component(group, document[group]) for group in GROUPS}
        models = {name: _component("model", model) for name, model in document["negative_models"].items()}
        return RunConfig(**{**document, **components, "negative_models": models})
    except (KeyError, TypeError) as error:
        raise UserError(f"the configuration is of another version of rnet: {error}") from None


def _component(group: str, settings: Mapping[str, Any]) -> Any:
    kind = component_class(group, settings.get("name"))
    held = {name: settings[name] for name in held_components(kind) if settings.get(name) is not None}
    return kind(**{**settings, **{name: _component(name, inner) for name, inner in held.items()}})
