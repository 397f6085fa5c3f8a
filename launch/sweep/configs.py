"""Thousands of configurations: a row is composed only if one of its components was in no row before it.

Composing a row takes 0.15 s, and a sweep of 10,000 rows has a few dozen distinct components. What a component is made
from: the choice of its group, the choices that the presets of its group depend on (configs/config.yaml says which),
the row's overrides of its keys, and the run's seed where it has none of its own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rnet.config import GROUPS, RunConfig, config_folder, load_config
from rnet.errors import UserError

_TOP = "top"
_PROBE = 987_654_321
"""A seed nobody writes: a component that shows it takes the run's."""

Key = tuple[tuple[str, ...], tuple[str, ...]]


class ConfigCache:
    """load_config for the rows of a sweep. Equal components are the same object in every configuration returned."""

    def __init__(self, config_dir: Path | None = None) -> None:
        self._config_dir = config_dir
        self._coupled = _coupled_groups(config_dir)
        self._known = {*GROUPS, *_top_level()}
        self._found: dict[tuple[str, Key], Any] = {}
        self._inherits: set[tuple[str, Key]] = set()
        self._seeded: dict[tuple[str, Key, int], Any] = {}
        self.composed = 0

    def load(self, lines: Sequence[str]) -> RunConfig:
        """The configuration that load_config returns for the same overrides. Raises UserError as it does."""
        choices: dict[str, str] = {}
        values: dict[str, list[str]] = {group: [] for group in (*GROUPS, _TOP)}
        seed = "seed=0"
        for line in lines:
            key, equals, _ = line.partition("=")
            group, dot, _ = key.partition(".")
            if not equals or group not in self._known:
                load_config(lines, config_dir=self._config_dir)  # says what is wrong
            if key in GROUPS:
                choices[key] = line
            elif dot:
                values[group].append(line)
            elif key == "seed":
                seed = line
            else:
                values[_TOP].append(line)
        keys = {
            group: (tuple(choices.get(name, "") for name in self._coupled[group]), tuple(values[group]))
            for group in (*GROUPS, _TOP)
        }
        if any((group, key) not in self._found for group, key in keys.items()):
            self._compose(lines, keys)
        number = self._seed(seed)
        components = {group: self._component(group, keys[group], number) for group in GROUPS}
        return RunConfig(**components, **self._found[_TOP, keys[_TOP]], seed=number)

    def _compose(self, lines: Sequence[str], keys: dict[str, Key]) -> None:
        """Composes the row and keeps every component of it that is not known yet."""
        self.composed += 1
        without_seed = [line for line in lines if not line.startswith("seed=")]
        run = load_config([*without_seed, f"seed={_PROBE}"], config_dir=self._config_dir)
        for group in GROUPS:
            component = getattr(run, group)
            new = self._found.setdefault((group, keys[group]), component) is component
            if new and getattr(component, "seed", None) == _PROBE:
                self._inherits.add((group, keys[group]))
        top = {name: getattr(run, name) for name in _top_level() if name != "seed"}
        self._found.setdefault((_TOP, keys[_TOP]), top)

    def _component(self, group: str, key: Key, seed: int) -> Any:
        if (group, key) not in self._inherits:
            return self._found[group, key]
        if (group, key, seed) not in self._seeded:
            self._seeded[group, key, seed] = dataclasses.replace(self._found[group, key], seed=seed)
        return self._seeded[group, key, seed]

    def _seed(self, line: str) -> int:
        text = line.partition("=")[2]
        if not re.fullmatch(r"-?\d+", text):
            raise UserError(f"{line} must be of type int")
        return int(text)


def _top_level() -> list[str]:
    return [field.name for field in dataclasses.fields(RunConfig) if field.name not in GROUPS]


def _coupled_groups(config_dir: Path | None) -> dict[str, tuple[str, ...]]:
    """The groups whose choices decide each component: its own, and those its preset is chosen by.

    An option that reaches beyond its own group ("@package", "${") makes every component depend on every choice.
    """
    folders = [config_folder(), *([config_dir] if config_dir else [])]
    options = [path for folder in folders for group in GROUPS for path in (folder / group).glob("*.yaml")]
    if any(mark in path.read_text() for path in options for mark in ("@package", "${")):
        return dict.fromkeys((*GROUPS, _TOP), GROUPS)
    coupled = {group: {group} for group in GROUPS}
    defaults = yaml.safe_load((config_folder() / "config.yaml").read_text())["defaults"]
    for entry in defaults:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            group = key.removeprefix("optional ").removesuffix("_preset")
            coupled[group] |= set(re.findall(r"\$\{(\w+)\}", str(value)))
    return {**{group: tuple(sorted(names)) for group, names in coupled.items()}, _TOP: ()}
