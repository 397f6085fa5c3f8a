"""Thousands of configurations: a row is composed only if one of its components was in no row before it.

Composing a row takes 0.15 s, and a sweep of 10,000 rows has a few dozen distinct components. What a component is made
from: the option chosen for its group, the group's preset if there is one for this row (configs/config.yaml says how it
is called), the row's overrides of its keys, and the run's seed where it has none of its own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rnet.config.components import GROUPS, PRESETS, TOP_LEVEL
from rnet.config.compose import config_folder, option_names
from rnet.config.overrides import parse_overrides
from rnet.config.run import RunConfig, load_config
from rnet.errors import UserError

_TOP = "top"
_PROBE = 987_654_321
"""A seed nobody writes: a component that shows it takes the run's."""

Part = tuple[str, tuple[str, ...], tuple[str, ...]]
"""What one component is made from: its group, options and preset, overrides."""


class ConfigCache:
    """load_config for the rows of a sweep. Equal components are the same object in every configuration returned."""

    def __init__(self, config_dir: Path | None = None) -> None:
        self._config_dir = config_dir
        self._defaults, self._presets = _defaults_and_presets()
        self._preset_names = {group: option_names(f"{group}_preset", config_dir) for group in self._presets}
        self._tangled = _tangled(config_dir)
        self._known = {*GROUPS, *PRESETS, *TOP_LEVEL}
        self._parts: dict[tuple[str, ...], dict[str, Part]] = {}
        self._options: dict[str, str] = {}
        self._found: dict[Part, Any] = {}
        self._inherits: set[Part] = set()
        self._seeded: dict[tuple[Part, int], Any] = {}
        self.composed = 0

    def load(self, lines: Sequence[str]) -> RunConfig:
        """The configuration that load_config returns for the same overrides. Raises UserError as it does."""
        parts = self.parts(lines)
        if any(part not in self._found for part in parts.values()):
            self._compose(lines, parts)
        seed = self._seed(lines)
        components = {group: self._component(parts[group], seed) for group in GROUPS}
        return RunConfig(**components, **self._found[parts[_TOP]], seed=seed)

    def parts(self, lines: Sequence[str]) -> dict[str, Part]:
        """What each of the row's components is made from, the seed left aside. Rows with equal parts share them."""
        key = tuple(line for line in lines if not line.startswith("seed="))
        if key not in self._parts:
            self._parts[key] = self._taken_apart(key)
        return self._parts[key]

    def _taken_apart(self, lines: tuple[str, ...]) -> dict[str, Part]:
        chosen = dict(self._defaults)
        values: dict[str, list[str]] = {group: [] for group in (*GROUPS, _TOP)}
        for line in lines:
            key, equals, _ = line.partition("=")
            group, dot, _ = key.partition(".")
            if not equals or group not in self._known:
                load_config(lines, config_dir=self._config_dir)  # says what is wrong
            if key in GROUPS or key in PRESETS:
                chosen[key] = self._option(line)
            else:
                values[group if dot else _TOP].append(line)
        return {group: (group, self._choices(group, chosen), tuple(values[group])) for group in (*GROUPS, _TOP)}

    def _choices(self, group: str, chosen: Mapping[str, str]) -> tuple[str, ...]:
        """The options that decide the group's component: its own and its preset's, or all of them."""
        if self._tangled:
            return tuple(chosen.values())
        if group == _TOP:
            return ()
        if named := chosen.get(f"{group}_preset"):
            return (chosen[group], named)
        preset = re.sub(r"\$\{(\w+)\}", lambda found: chosen[found[1]], self._presets.get(group, ""))
        return (chosen[group], preset) if preset in self._preset_names.get(group, ()) else (chosen[group],)

    def _option(self, line: str) -> str:
        if line not in self._options:
            self._options[line] = str(parse_overrides([line])[0].value())
        return self._options[line]

    def _compose(self, lines: Sequence[str], parts: Mapping[str, Part]) -> None:
        """Composes the row and keeps every component of it that is not known yet."""
        self.composed += 1
        without_seed = [line for line in lines if not line.startswith("seed=")]
        run = load_config([*without_seed, f"seed={_PROBE}"], config_dir=self._config_dir)
        for group in GROUPS:
            component = getattr(run, group)
            new = self._found.setdefault(parts[group], component) is component
            if new and getattr(component, "seed", None) == _PROBE:
                self._inherits.add(parts[group])
        top = {name: getattr(run, name) for name in TOP_LEVEL if name != "seed"}
        self._found.setdefault(parts[_TOP], top)

    def _component(self, part: Part, seed: int) -> Any:
        if part not in self._inherits:
            return self._found[part]
        if (part, seed) not in self._seeded:
            self._seeded[part, seed] = dataclasses.replace(self._found[part], seed=seed)
        return self._seeded[part, seed]

    def _seed(self, lines: Sequence[str]) -> int:
        line = next((line for line in reversed(lines) if line.startswith("seed=")), "seed=0")
        text = line.partition("=")[2]
        if not re.fullmatch(r"-?\d+", text):
            raise UserError(f"{line} must be of type int")
        return int(text)


def _tangled(config_dir: Path | None) -> bool:
    """Whether an option reaches beyond its own group ("@package", "${"): then all options decide every component."""
    folders = [config_folder(), *([config_dir] if config_dir else [])]
    options = [path for folder in folders for group in GROUPS for path in (folder / group).glob("*.yaml")]
    return any(mark in path.read_text() for path in options for mark in ("@package", "${"))


def _defaults_and_presets() -> tuple[dict[str, str], dict[str, str]]:
    """Each group's default option, and how the groups that have presets call them, e.g. "${attack}_${dataset}"."""
    defaults, presets = {}, {}
    for entry in yaml.safe_load((config_folder() / "config.yaml").read_text())["defaults"]:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if key in GROUPS:
                defaults[key] = value
            else:
                presets[key.removeprefix("optional ").removesuffix("_preset")] = value
    return defaults, presets
