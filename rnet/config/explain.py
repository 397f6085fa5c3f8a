"""What can be chosen and what every key means, from where it is written: options, docstrings, docstrings of fields.

Sources are parsed, not imported, so that listing is quick and starts nothing.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rnet.config.component import ComponentConfig
from rnet.config.components import GROUPS, REGISTRIES, TOP_LEVEL
from rnet.config.compose import config_folder, option_files, option_names
from rnet.config.profiles import profiles_of
from rnet.config.run import RunConfig, load_config
from rnet.config.typed import held_components
from rnet.config.yaml_files import read_mapping
from rnet.errors import unknown_name


def list_options(group: str, config_dir: Path | None = None) -> list[dict[str, str]]:
    """What may be written after group=: {"name", "summary", "origin"} of each, and of defences "profiles"."""
    files, installed = option_files(group, config_dir), REGISTRIES[group].installed()
    found = []
    for name in option_names(group, config_dir):
        component, summary, origin = name, "", "rnet"
        if name in files:
            component, summary = _option(files[name])
            origin = "rnet" if files[name].is_relative_to(config_folder()) else str(files[name].parent.parent)
        elif name in installed and (package := installed[name].dist):
            origin = f"{package.name} {package.version}"
        if not summary and component and (reference := REGISTRIES[group].reference(component)):
            summary = summary_of(reference)
        found.append({"name": name, "summary": summary, "origin": origin})
        if group == "defense":
            found[-1]["profiles"] = ", ".join(profiles_of(component, config_dir))
    return found


def explain(wanted: Sequence[str], config_dir: Path | None = None) -> list[dict[str, Any]]:
    """{"key", "type", "value", "meaning"} of the keys wanted, in the configuration that the overrides among them make.

    wanted: overrides (whose groups are explained), groups and keys. Nothing wanted is everything. Raises UserError for
    what does not exist.
    """
    overrides = [word for word in wanted if "=" in word]
    rows = _rows(load_config(overrides, config_dir=config_dir), config_dir)
    shown = {word for word in wanted if "=" not in word}
    shown |= {key.removesuffix("_preset").partition(".")[0] for key in (line.partition("=")[0] for line in overrides)}
    known = [*GROUPS, *(row["key"] for row in rows)]
    for word in sorted(shown):
        if word not in known:
            raise unknown_name("key", word, known)
    return [row for row in rows if not shown or {row["key"], row["key"].partition(".")[0]} & shown]


def summary_of(reference: str) -> str:
    """The first sentence of the docstring of module:Name, without importing the module; empty without one."""
    module, _, name = reference.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin or "").read_text()) if spec else ast.Module([], [])
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return _first_sentence(ast.get_docstring(node) or "")
    return ""


def field_meanings(kind: type) -> dict[str, str]:
    """The docstrings after the fields of a dataclass and of its bases, each as one line."""
    found = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        except (OSError, TypeError):  # made in an interpreter
            continue
        for field, after in pairwise(body):
            text = getattr(getattr(after, "value", None), "value", None)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, str):
                found[field.target.id] = " ".join(text.split())
    return found


def _rows(run: RunConfig, config_dir: Path | None) -> list[dict[str, Any]]:
    meanings = field_meanings(RunConfig)
    rows = [
        {"key": key, "type": kind.__name__, "value": _value(getattr(run, key)), "meaning": meanings[key]}
        for key, kind in TOP_LEVEL.items()
    ]
    rows += [row for group in GROUPS for row in _keys(group, type(getattr(run, group)), getattr(run, group))]
    for row in rows:
        if row["key"] == "defense.profile":
            known = ", ".join(profiles_of(run.defense.name, config_dir)) or "none"
            row["meaning"] += f" Profiles of {run.defense.name}: {known}."
    return rows


def _value(value: Any) -> Any:
    return [*value] if isinstance(value, dict) else value


def _keys(prefix: str, kind: type, config: Any) -> list[dict[str, Any]]:
    """A component's keys, and those of the components in it; config: its values, None where it is not set."""
    rows = []
    held, meanings = held_components(kind), field_meanings(kind)
    for field in dataclasses.fields(kind):
        key, value = f"{prefix}.{field.name}", getattr(config, field.name, None)
        shown = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
        name = value.name if isinstance(value, ComponentConfig) else value
        rows.append({"key": key, "type": shown, "value": name, "meaning": meanings.get(field.name, "")})
        if field.name in held:
            rows += _keys(key, type(value) if value is not None else held[field.name], value)
    return rows


def _option(file: Path) -> tuple[str, str]:
    """The component that an option names, and the comment above it."""
    comment = []
    for line in file.read_text(errors="replace").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return str(read_mapping(file).get("name", "")), " ".join(comment)


def _first_sentence(text: str) -> str:
    line = " ".join(text.partition("\n\n")[0].split())
    return line.partition(". ")[0].removesuffix(".")
