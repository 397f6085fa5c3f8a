"""A sweep file: axes, what is left out, what some combinations set or need, and where it runs.

name: dev                              # default: the file's name
cluster: slurm                         # a profile: configs/cluster/slurm.yaml
until: verify                          # or train, attack, fingerprint
set: [train.epochs=2, negatives=3]     # for every row
axes:                                  # rows are the product, the last axis running fastest
  dataset: [digits, fashion_mnist]
  attack: [finetune, removalnet]
  seed: [0, 1]
exclude: [{dataset: digits, attack: removalnet}]
cases:                                 # for the rows that match
  - {when: {attack: [removalnet]}, set: [attack.iterations=100], resources: {attack: {gpus: 1}}}
resources: {default: {cpus: 2, minutes: 60}, verify: {pack: 20}}
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rnet.config.components import GROUPS, PRESETS, TOP_LEVEL
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError, unknown_name
from rnet.stages.graph import STAGE_NAMES

_KEYS = ("name", "cluster", "until", "set", "axes", "exclude", "cases", "resources")
_PLAIN = re.compile(r"[\w./:+-]+")

Match = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What rows that match get besides: overrides, and resources by stage."""

    when: Match
    set: tuple[str, ...]
    resources: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep as written. axes: values as text, in the file's order."""

    name: str
    path: Path
    cluster: str
    until: str
    common: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    exclude: tuple[Match, ...]
    cases: tuple[Case, ...]
    resources: Mapping[str, Mapping[str, Any]]

    def rows(self) -> Iterator[dict[str, str]]:
        """Axis values of every combination that is not excluded."""
        for values in itertools.product(*self.axes.values()):
            row = dict(zip(self.axes, values, strict=True))
            if not any(matches(row, rule) for rule in self.exclude):
                yield row

    def overrides(self, row: Mapping[str, str]) -> tuple[str, ...]:
        """The row's overrides: what all have in common, then its axes, then its cases."""
        own = [f"{axis}={value}" for axis, value in row.items()]
        extra = [line for case in self.cases if matches(row, case.when) for line in case.set]
        return (*self.common, *own, *extra)

    def needs(self, row: Mapping[str, str], stage: str) -> dict[str, Any]:
        """The resources that the file asks for this row's stage; later and more special settings win."""
        found: dict[str, Any] = {}
        layers = [self.resources, *(case.resources for case in self.cases if matches(row, case.when))]
        for layer in layers:
            found |= {**layer.get("default", {}), **layer.get(stage, {})}
        return found


def matches(row: Mapping[str, str], rule: Match) -> bool:
    """Whether every axis that the rule names has one of the rule's values."""
    return all(row[axis] in values for axis, values in rule.items())


def load_sweep(path: Path, changes: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file. changes: what the command line sets differently, `cluster=local axes.seed=[0]`.

    Raises UserError, naming file and key, for what is not there, is not known or cannot have an effect.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read the sweep {str(path)!r}: {error.strerror}; name a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    try:
        return _sweep(_changed(_mapping(document, "the sweep"), changes), path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _sweep(document: dict[str, Any], path: Path) -> Sweep:
    for key in document:
        if key not in _KEYS:
            raise unknown_name("key", key, _KEYS)
    axes = {axis: _values(f"axes.{axis}", values) for axis, values in _mapping(document.get("axes"), "axes").items()}
    for axis in axes:
        _check_axis(axis)
    until = str(document.get("until", "verify"))
    if until not in STAGE_NAMES:
        raise unknown_name("until", until, STAGE_NAMES)
    cases = tuple(_case(number, case, axes) for number, case in enumerate(_list(document, "cases")))
    exclude = tuple(_match(f"exclude[{number}]", rule, axes) for number, rule in enumerate(_list(document, "exclude")))
    name = str(document.get("name", path.stem))
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"name={name!r} names a folder; use letters, digits, '_', '-' and '.'")
    sweep = Sweep(
        name=name, path=path, cluster=str(document.get("cluster", "local")), until=until,
        common=_lines("set", _list(document, "set")), axes=axes, exclude=exclude, cases=cases,
        resources=_resources("resources", document.get("resources")),
    )  # fmt: skip
    for number, rule in enumerate(exclude):
        if not any(matches(dict(zip(axes, v, strict=True)), rule) for v in itertools.product(*axes.values())):
            raise UserError(f"exclude[{number}] leaves out nothing; delete it")
    if next(sweep.rows(), None) is None:
        raise UserError("exclude leaves no rows; take some of its rules out")
    return sweep


def _case(number: int, case: Any, axes: Mapping[str, Sequence[str]]) -> Case:
    setting = f"cases[{number}]"
    case = _mapping(case, setting)
    for key in case:
        if key not in ("when", "set", "resources"):
            raise unknown_name(f"{setting} key", key, ("when", "set", "resources"))
    return Case(
        when=_match(f"{setting}.when", case.get("when"), axes),
        set=_lines(f"{setting}.set", _list(case, "set")),
        resources=_resources(f"{setting}.resources", case.get("resources")),
    )


def _match(setting: str, rule: Any, axes: Mapping[str, Sequence[str]]) -> Match:
    found = {}
    for axis, values in _mapping(rule, setting).items():
        if axis not in axes:
            raise unknown_name(f"{setting} axis", axis, axes)
        found[axis] = _values(f"{setting}.{axis}", values)
        for value in found[axis]:
            if value not in axes[axis]:
                raise unknown_name(f"{setting}.{axis}", value, axes[axis])
    if not found:
        raise UserError(f"{setting} names no axis; name at least one of {', '.join(axes)}")
    return found


def _check_axis(axis: str) -> None:
    group, dot, field = axis.partition(".")
    if not (axis in TOP_LEVEL or axis in PRESETS or (group in GROUPS and (field or not dot))):
        raise unknown_name(
            "axis", axis, [*GROUPS, *PRESETS, *TOP_LEVEL], remedy="A key of a group works too: attack.seed."
        )
    if axis in ("negatives", "false_positive_rate"):
        raise UserError(f"axis {axis!r} changes verdicts only; write it under set")


def _resources(setting: str, document: Any) -> dict[str, dict[str, Any]]:
    found = _mapping(document or {}, setting)
    for stage in found:
        if stage not in ("default", *STAGE_NAMES):
            raise unknown_name(f"{setting} stage", stage, ("default", *STAGE_NAMES))
    return {stage: _mapping(needs, f"{setting}.{stage}") for stage, needs in found.items()}


def _values(setting: str, values: Any) -> tuple[str, ...]:
    if values == "all" and setting == "axes.defense":
        values = DEFENSES.own()
    listed = values if isinstance(values, list) else [values]
    if not listed:
        raise UserError(f"{setting} is empty; give at least one value or take it out")
    texts = tuple(_text(setting, value) for value in listed)
    if len(set(texts)) < len(texts):
        raise UserError(f"{setting} has a value twice: {', '.join(texts)}")
    return texts


def _text(setting: str, value: Any) -> str:
    """A YAML scalar as Hydra reads it in an override."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return value if _PLAIN.fullmatch(value) else f"'{quoted}'"
    raise UserError(f"{setting} has the value {value!r}; values are numbers and words")


def _lines(setting: str, lines: list[Any]) -> tuple[str, ...]:
    for line in lines:
        if not isinstance(line, str) or "=" not in line:
            raise UserError(f"{setting} has {line!r}; write key=value, e.g. train.epochs=2")
    return tuple(lines)


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key) or []
    if not isinstance(value, list):
        raise UserError(f"{key}={value!r} must be a list")
    return value


def _mapping(value: Any, setting: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{setting} must map names to values, not be {value!r}")
    return value


def _changed(document: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    for line in changes:
        key, equals, text = line.partition("=")
        if not equals:
            raise UserError(f"{line!r} has no '='; write it as key=value, e.g. cluster=local")
        *folders, last = key.split(".", 1) if key.startswith(("axes.", "resources.")) else [key]
        node = document
        for name in folders:
            node = node.setdefault(name, {})
        if folders == ["resources"] and "." in last:
            stage, _, last = last.partition(".")
            node = node.setdefault(stage, {})
        node[last] = yaml.safe_load(text)
    return document
