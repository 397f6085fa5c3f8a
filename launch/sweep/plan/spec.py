"""A sweep file: axes, what is left out, what some combinations set or need, and where it runs.

name: dev                              # default: the file's name
cluster: slurm                         # a profile: DIR/cluster/slurm.yaml of --config-dir DIR, or one of rnet's
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
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnet.config.components import GROUPS, PRESETS, TOP_LEVEL
from rnet.config.overrides import parse_override
from rnet.config.values import shown, typed
from rnet.config.yaml_files import Items, Table, Word, parse_yaml, place_of, read_mapping
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError, unknown_name
from rnet.stages.graph import STAGE_NAMES

_KEYS = ("name", "cluster", "until", "set", "axes", "exclude", "cases", "resources")

MOST_ROWS = 200_000
"""Combinations of axes that are expanded, unless the command line says max_rows=N."""
_MOST_MATCHES = 20_000_000
"""Rows times rules: a few seconds."""

_MOST_CHANGES = 1000
_PROFILE = re.compile(r"[^\W.][\w.-]*")

Match = Mapping[str, frozenset[str]]


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
        own = [f"{axis}={'' if isinstance(value, Word) and value.absent else value}" for axis, value in row.items()]
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
    document = read_mapping(path)
    rows = [line.removeprefix("max_rows=") for line in changes if line.startswith("max_rows=")]
    changes = [line for line in changes if not line.startswith("max_rows=")]
    try:
        return _sweep(_changed(document, changes), path, typed("max_rows", int, rows[-1]) if rows else MOST_ROWS)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _sweep(document: dict[str, Any], path: Path, most_rows: int) -> Sweep:
    _check_keys("key", document, _KEYS)
    axes = {axis: _values(f"axes.{axis}", values) for axis, values in _mapping(document.get("axes"), "axes").items()}
    for axis in document["axes"]:
        _check_axis(axis)
    count = math.prod(map(len, axes.values()))
    if count > most_rows:
        sizes = " x ".join(f"{len(values)} ({axis})" for axis, values in axes.items() if len(values) > 1)
        raise UserError(
            f"axes make {_about(count)} rows: {sizes}; at most {most_rows:,} are planned; take values out, or "
            f"allow more on the command line, max_rows=NUMBER"
        )
    until = _word(document, "until", "verify")
    if until not in STAGE_NAMES:
        raise UserError(f"{place_of(until)}{unknown_name('until', until, STAGE_NAMES)}")
    cases = tuple(_case(number, case, axes) for number, case in enumerate(_list(document, "cases")))
    exclude = tuple(_match(f"exclude[{number}]", rule, axes) for number, rule in enumerate(_list(document, "exclude")))
    if count * (len(exclude) + len(cases)) > _MOST_MATCHES:
        raise UserError(
            f"{count:,} rows times {len(exclude) + len(cases):,} rules of exclude and cases are too many to compare; "
            f"write fewer rules, or several sweeps"
        )
    cluster = _word(document, "cluster", "local")
    if not _PROFILE.fullmatch(cluster):
        raise UserError(
            f"{place_of(cluster)}cluster={shown(cluster)} must be a profile's name, not a path, for profiles hold "
            f"commands; put it into DIR/cluster/NAME.yaml, and give --config-dir DIR and cluster: NAME"
        )
    name = _word(document, "name", path.stem)
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UserError(f"{place_of(name)}name={shown(name)} names a file; use letters, digits, '_', '-' and '.'")
    sweep = Sweep(
        name=str(name), path=path, cluster=str(cluster), until=str(until),
        common=_lines("set", _list(document, "set")), axes=axes, exclude=exclude, cases=cases,
        resources=_resources("resources", document.get("resources")),
    )  # fmt: skip
    if next(sweep.rows(), None) is None:
        raise UserError("exclude leaves no rows; take some of its rules out")
    return sweep


def _case(number: int, case: Any, axes: Mapping[str, Sequence[str]]) -> Case:
    setting = f"cases[{number}]"
    case = _mapping(case, setting)
    _check_keys(f"{setting} key", case, ("when", "set", "resources"))
    return Case(
        when=_match(f"{setting}.when", case.get("when"), axes),
        set=_lines(f"{setting}.set", _list(case, "set")),
        resources=_resources(f"{setting}.resources", case.get("resources")),
    )


def _match(setting: str, rule: Any, axes: Mapping[str, Sequence[str]]) -> Match:
    found = {}
    for axis, values in _mapping(rule, setting).items():
        if axis not in axes:
            raise UserError(f"{place_of(axis)}{unknown_name(f'{setting} axis', axis, axes)}")
        listed = _values(f"{setting}.{axis}", values)
        found[axis], known = frozenset(listed), frozenset(axes[axis])
        for value in listed:
            if value not in known:
                raise UserError(f"{place_of(value)}{unknown_name(f'{setting}.{axis}', value, axes[axis])}")
    if not found:
        raise UserError(f"{setting} names no axis; name at least one of {', '.join(axes)}")
    return found


def _about(count: int) -> str:
    """A number of rows that may have thousands of digits."""
    return f"{count:,}" if count < 10**15 else f"over 10^{int(math.log10(count))}"


def _check_axis(axis: str) -> None:
    group, dot, field = axis.partition(".")
    if not (axis in TOP_LEVEL or axis in PRESETS or (group in GROUPS and (field or not dot))):
        unknown = unknown_name(
            "axis", axis, [*GROUPS, *PRESETS, *TOP_LEVEL], remedy="A key of a group works too: attack.seed."
        )
        raise UserError(f"{place_of(axis)}{unknown}")
    if axis in ("negatives", "negative_kinds", "negative_models", "false_positive_rate"):
        raise UserError(f"{place_of(axis)}axis {str(axis)!r} changes verdicts only; write it under set")


def _resources(setting: str, document: Any) -> dict[str, dict[str, Any]]:
    found = _mapping(Table() if document is None else document, setting)
    _check_keys(f"{setting} stage", found, ("default", *STAGE_NAMES))
    return {stage: _mapping(needs, f"{setting}.{stage}") for stage, needs in found.items()}


def _values(setting: str, values: Any) -> tuple[str, ...]:
    if setting == "axes.defense" and values == "all":
        values = Items(DEFENSES.own())
    listed = values if isinstance(values, list) else [values]
    if not listed:
        raise UserError(f"{place_of(values)}{setting} is empty; give at least one value or take it out")
    for value in listed:
        if not isinstance(value, str):
            raise UserError(f"{place_of(value)}{setting} has the value {value!r}; values are numbers and words")
    if len(set(listed)) < len(listed):
        twice = next(value for value in listed if listed.count(value) > 1)
        raise UserError(f"{place_of(values)}{setting} has {shown(twice)} twice; take one out")
    return tuple(listed)


def _lines(setting: str, lines: list[Any]) -> tuple[str, ...]:
    for line in lines:
        if not isinstance(line, str) or "=" not in line:
            raise UserError(f"{place_of(line)}{setting} has {shown(line)}; write key=value, e.g. train.epochs=2")
        try:
            parse_override(line)
        except UserError as error:
            raise UserError(f"{place_of(line)}{setting}: {error}") from None
    return tuple(str(line) for line in lines)


def _word(document: Mapping[str, Any], key: str, default: str) -> str:
    value = document.get(key, default)
    if not isinstance(value, str) or (isinstance(value, Word) and value.absent):
        raise UserError(f"{place_of(value)}{key}={shown(value)} must be a word, e.g. {default}")
    return value


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if value is None or (isinstance(value, Word) and value.absent):
        return []
    if not isinstance(value, list):
        raise UserError(f"{place_of(value)}{key}={shown(value)} must be a list")
    return value


def _mapping(value: Any, setting: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place_of(value)}{setting} must map names to values, not be {shown(value)}")
    return value


def _check_keys(what: str, document: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in document:
        if key not in known:
            raise UserError(f"{place_of(key)}{unknown_name(what, key, known)}")


def _changed(document: Table, changes: Sequence[str]) -> Table:
    """The document with what the command line sets: words as they stand, and [lists] and {mappings} as in YAML."""
    if len(changes) > _MOST_CHANGES:
        raise UserError(f"{len(changes):,} changes on the command line; write them into the file")
    document = _copied(document)
    for line in changes:
        key, equals, text = line.partition("=")
        if not equals:
            raise UserError(f"{line!r} has no '='; write it as key=value, e.g. cluster=local")
        *folders, last = key.split(".", 1) if key.startswith(("axes.", "resources.")) else [key]
        node = document
        for name in folders:
            node = _inner(node, name)
        if folders == ["resources"] and "." in last:
            stage, _, last = last.partition(".")
            node = _inner(node, stage)
        where = f"on the command line, {key}"
        node[last] = parse_yaml(text, where) if text[:1] in ("[", "{") else Word(text, where)
    return document


def _inner(node: Table, name: str) -> Table:
    """The mapping under a name, made where there is none."""
    if not isinstance(node.get(name), Table):
        node[name] = Table()
    found: Table = node[name]
    return found


def _copied(table: Table) -> Table:
    """A mapping that may be changed, down to its last mapping."""
    copy = Table({key: _copied(value) if isinstance(value, Table) else value for key, value in table.items()})
    copy.place = table.place
    return copy
