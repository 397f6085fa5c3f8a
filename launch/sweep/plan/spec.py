"""A sweep file: axes, which combinations are rows, what some rows set or need, and where they run.

name: dev                              # default: the file's name
cluster: slurm                         # a profile: DIR/cluster/slurm.yaml of --config-dir DIR, or one of rnet's
until: verify                          # or train, attack, fingerprint
set: [train.epochs=2, negatives=3]     # for every row
axes:                                  # rows are the product, the last axis running fastest; axes.py has their words
  dataset: [digits, fashion_mnist]
  attack: [finetune, removalnet]
seeds: 2                               # the axis seed: [0, 1]
zip: []                                # axes that go together, value by value: [[dataset, model]]
only: []                               # rows that match none of these rules are left out, if there are some
exclude: [{dataset: digits, attack: removalnet}]
cases:                                 # for the rows that match
  - {when: {attack: [removalnet]}, set: [attack.iterations=100], resources: {attack: {gpus: 1}}}
resources: {default: {cpus: 2, minutes: 60}, verify: {pack: 20}}    # also: negatives, for training independent models
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.sweep.plan.axes import (
    Axes,
    Match,
    combinations,
    count_rows,
    known_values,
    matches,
    read_axes,
    read_rule,
    read_zip,
)
from launch.sweep.plan.changes import changed
from rnet.config.overrides import parse_override
from rnet.config.values import shown, typed
from rnet.config.yaml_files import Table, Word, place_of, read_mapping
from rnet.errors import UserError, unknown_name
from rnet.stages.graph import STAGE_NAMES

_KEYS = ("name", "cluster", "until", "set", "axes", "seeds", "zip", "only", "exclude", "cases", "resources")

NEGATIVES = "negatives"
"""Under resources: of the attack stages that train independent models."""
MOST_ROWS = 200_000
"""Combinations of axes that are expanded, unless the command line says max_rows=N."""
_MOST_MATCHES = 20_000_000
"""Rows times rules: a few seconds."""

_PROFILE = re.compile(r"[^\W.][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What rows that match get besides: overrides, and resources by stage."""

    when: Match
    set: tuple[str, ...]
    resources: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep as written. axes: values as text, in the file's order. together: axes that go together."""

    name: str
    path: Path
    cluster: str
    until: str
    common: tuple[str, ...]
    axes: Axes
    together: tuple[tuple[str, ...], ...]
    only: tuple[Match, ...]
    exclude: tuple[Match, ...]
    cases: tuple[Case, ...]
    resources: Mapping[str, Mapping[str, Any]]

    def rows(self) -> Iterator[dict[str, str]]:
        """Axis values of every combination that is wanted and not excluded."""
        for row in combinations(self.axes, self.together):
            wanted = not self.only or any(matches(row, rule) for rule in self.only)
            if wanted and not any(matches(row, rule) for rule in self.exclude):
                yield row

    def overrides(self, row: Mapping[str, str]) -> tuple[str, ...]:
        """The row's overrides: what all have in common, then its axes, then its cases."""
        own = [f"{axis}={'' if isinstance(value, Word) and value.absent else value}" for axis, value in row.items()]
        extra = [line for case in self.cases if matches(row, case.when) for line in case.set]
        return (*self.common, *own, *extra)

    def needs(self, row: Mapping[str, str], stage: str, *, independent: bool = False) -> dict[str, Any]:
        """The resources that the file asks for this row's stage; later and more special settings win.

        independent: the stage trains one of the row's negatives, which takes as long as training its victim.
        """
        found: dict[str, Any] = {}
        layers = [self.resources, *(case.resources for case in self.cases if matches(row, case.when))]
        for layer in layers:
            found |= {**layer.get("default", {}), **layer.get(stage, {})}
            found |= layer.get(NEGATIVES, {}) if independent else {}
        return found


def load_sweep(path: Path, changes: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file. changes: what the command line sets differently, `cluster=local axes.seed=[0]`.

    Raises UserError, naming file and key, for what is not there, is not known or cannot have an effect.
    """
    document = read_mapping(path)
    rows = [line.removeprefix("max_rows=") for line in changes if line.startswith("max_rows=")]
    changes = [line for line in changes if not line.startswith("max_rows=")]
    try:
        most_rows = typed("max_rows", int, rows[-1]) if rows else MOST_ROWS
        return _sweep(changed(document, changes), document, path, most_rows)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _sweep(document: dict[str, Any], written: dict[str, Any], path: Path, most_rows: int) -> Sweep:
    """written: the document before it was changed, whose values rules may name, too."""
    _check_keys("key", document, _KEYS)
    axes = read_axes(document)
    together = read_zip(document, axes)
    count = count_rows(axes, together)
    if count > most_rows:
        sizes = " x ".join(f"{len(values)} ({axis})" for axis, values in axes.items() if len(values) > 1)
        raise UserError(
            f"axes make {_about(count)} rows: {sizes}; at most {most_rows:,} are planned; take values out, or "
            f"allow more on the command line, max_rows=NUMBER"
        )
    until = _word(document, "until", "verify")
    if until not in STAGE_NAMES:
        raise UserError(f"{place_of(until)}{unknown_name('until', until, STAGE_NAMES)}")
    known = axes
    if document is not written:
        with suppress(UserError):
            known = known_values(read_axes(written), axes)
    only, exclude = (
        tuple(read_rule(f"{key}[{number}]", rule, known) for number, rule in enumerate(_list(document, key)))
        for key in ("only", "exclude")
    )
    cases = tuple(_case(number, case, known) for number, case in enumerate(_list(document, "cases")))
    rules = len(only) + len(exclude) + len(cases)
    if count * rules > _MOST_MATCHES:
        raise UserError(
            f"{count:,} rows times {rules:,} rules of only, exclude and cases are too many to compare; "
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
        common=_lines("set", _list(document, "set")), axes=axes, together=together, only=only, exclude=exclude,
        cases=cases,
        resources=_resources("resources", document.get("resources")),
    )  # fmt: skip
    if next(sweep.rows(), None) is None:
        which = "only and exclude leave" if only and exclude else "only leaves" if only else "exclude leaves"
        raise UserError(f"{which} no rows; take some rules out")
    return sweep


def _case(number: int, case: Any, axes: Axes) -> Case:
    setting = f"cases[{number}]"
    case = _mapping(case, setting)
    _check_keys(f"{setting} key", case, ("when", "set", "resources"))
    return Case(
        when=read_rule(f"{setting}.when", case.get("when"), axes),
        set=_lines(f"{setting}.set", _list(case, "set")),
        resources=_resources(f"{setting}.resources", case.get("resources")),
    )


def _about(count: int) -> str:
    """A number of rows that may have thousands of digits."""
    return f"{count:,}" if count < 10**15 else f"over 10^{int(math.log10(count))}"


def _resources(setting: str, document: Any) -> dict[str, dict[str, Any]]:
    found = _mapping(Table() if document is None else document, setting)
    _check_keys(f"{setting} stage", found, ("default", NEGATIVES, *STAGE_NAMES))
    return {stage: _mapping(needs, f"{setting}.{stage}") for stage, needs in found.items()}


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
