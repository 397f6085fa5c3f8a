"""The axes of a sweep: values one by one or as ranges, axes that go together, and rules that match rows.

seeds: 5                                                        # short for the axis seed: [0, 1, 2, 3, 4]
axes:
  train.epochs: {range: [10, 50, 20]}                           # 10, 30, 50: first, last, step
  attack.learning_rate: [0.5, {log_range: [0.001, 0.1, 3]}]     # 0.5, 0.001, 0.01, 0.1: first, last, how many
  dataset: [digits, cifar10]
  model: [resnet8, vgg19_bn]
zip: [[dataset, model]]                                         # digits with resnet8, cifar10 with vgg19_bn
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rnet.config.components import GROUPS, PRESETS, TOP_LEVEL
from rnet.config.values import shown, typed
from rnet.config.yaml_files import Items, Table, Word, place_of
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError, unknown_name

MOST_VALUES = 200_000
"""Of one axis."""

Axes = Mapping[str, tuple[str, ...]]
Match = Mapping[str, frozenset[str]]

_EXAMPLE = "name at least one, e.g. axes: {attack: [finetune, prune]}"
_RANGES = {"range": "[first, last, step]", "log_range": "[first, last, how many]"}


def read_axes(document: Mapping[str, Any]) -> Axes:
    """The axes of a sweep's document, with seeds as the axis seed, the last. Raises UserError."""
    given, seeds = document.get("axes"), document.get("seeds")
    if given is None and seeds is not None:
        given = Table()
    if not isinstance(given, dict):
        raise UserError(f"{place_of(given)}axes must map names to values, not be {shown(given)}; {_EXAMPLE}")
    axes = {}
    for axis, listed in given.items():
        _check_axis(axis)
        axes[str(axis)] = values_of(f"axes.{axis}", listed)
    if seeds is not None:
        if "seed" in axes:
            raise UserError(f"{place_of(seeds)}seeds={shown(seeds)} and axes.seed say the same thing; take one out")
        axes["seed"] = tuple(map(str, range(_count("seeds", seeds))))
    if not axes:
        raise UserError(f"{place_of(given)}axes is empty; {_EXAMPLE}")
    return axes


def read_zip(document: Mapping[str, Any], axes: Axes) -> tuple[tuple[str, ...], ...]:
    """Which axes go together: groups of axes with as many values each. Raises UserError."""
    given = document.get("zip")
    if given is None or given == [] or (isinstance(given, Word) and given.absent):
        return ()
    if not isinstance(given, list):
        raise UserError(f"{place_of(given)}zip={shown(given)} must list axes, e.g. zip: [[dataset, model]]")
    groups = given if any(isinstance(group, list) for group in given) else [given]
    seen: set[str] = set()
    for group in groups:
        if not isinstance(group, list) or not all(isinstance(axis, str) for axis in group) or len(group) < 2:
            raise UserError(
                f"{place_of(group) or place_of(given)}zip has {shown(group)}; list two axes or more that go together, "
                f"e.g. zip: [[dataset, model]]"
            )
        for axis in group:
            if axis not in axes:
                raise UserError(f"{place_of(axis)}{unknown_name('zip axis', axis, axes)}")
            if axis in seen:
                raise UserError(f"{place_of(axis)}zip has {shown(axis)} twice; take one out")
            seen.add(str(axis))
        if len({len(axes[axis]) for axis in group}) > 1:
            sizes = ", ".join(f"{axis} has {len(axes[axis])}" for axis in group)
            raise UserError(
                f"{place_of(group)}zip joins axes value by value, but {sizes} values; give all of them as many"
            )
    return tuple(tuple(map(str, group)) for group in groups)


def count_rows(axes: Axes, together: Sequence[Sequence[str]]) -> int:
    """How many combinations there are."""
    return math.prod(len(axes[bundle[0]]) for bundle in _bundles(axes, together))


def combinations(axes: Axes, together: Sequence[Sequence[str]]) -> Iterator[dict[str, str]]:
    """Every combination, the last axis running fastest; axes that go together stand where the first of them does."""
    bundles = _bundles(axes, together)
    for chosen in itertools.product(*(zip(*(axes[axis] for axis in bundle), strict=True) for bundle in bundles)):
        found = {
            axis: value
            for bundle, values in zip(bundles, chosen, strict=True)
            for axis, value in zip(bundle, values, strict=True)
        }
        yield {axis: found[axis] for axis in axes}


def _bundles(axes: Axes, together: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    group_of = {axis: tuple(group) for group in together for axis in group}
    return list(dict.fromkeys(group_of.get(axis, (axis,)) for axis in axes))


def read_rule(setting: str, rule: Any, axes: Axes) -> Match:
    """What rows a rule matches, {axis: value or values}. Raises UserError for what no row can have."""
    if not isinstance(rule, dict):
        raise UserError(f"{place_of(rule)}{setting} must map axes to values, not be {shown(rule)}")
    found: dict[str, frozenset[str]] = {}
    for axis, values in rule.items():
        if axis not in axes:
            raise UserError(f"{place_of(axis)}{unknown_name(f'{setting} axis', axis, axes)}")
        listed, known = values_of(f"{setting}.{axis}", values), frozenset(axes[axis])
        for value in listed:
            if value not in known:
                raise UserError(f"{place_of(value)}{unknown_name(f'{setting}.{axis}', value, axes[axis])}")
        found[str(axis)] = frozenset(listed)
    if not found:
        raise UserError(f"{place_of(rule)}{setting} names no axis; name at least one of {', '.join(axes)}")
    return found


def matches(row: Mapping[str, str], rule: Match) -> bool:
    """Whether every axis that the rule names has one of the rule's values."""
    return all(row[axis] in values for axis, values in rule.items())


def known_values(written: Axes, changed: Axes) -> Axes:
    """The values of each axis before and after a change: rules may still name those that the change took out."""
    return {axis: tuple(dict.fromkeys((*written.get(axis, ()), *values))) for axis, values in changed.items()}


def values_of(setting: str, given: Any) -> tuple[str, ...]:
    """The values of an axis or a rule as text, ranges written out. Raises UserError for none and for equal ones."""
    if setting == "axes.defense" and given == "all":
        given = Items(DEFENSES.own())
    listed: list[str] = []
    for value in given if isinstance(given, list) else [given]:
        if isinstance(value, dict):
            listed += [Word(number, getattr(value, "place", "")) for number in _range(setting, value)]
        else:
            listed.append(_value(setting, value))
    if isinstance(given, Word) and given.absent:
        raise UserError(f"{place_of(given)}{setting} has no value; give at least one ([null] for none) or take it out")
    if not listed:
        raise UserError(f"{place_of(given)}{setting} is empty; give at least one value or take it out")
    seen: set[str] = set()
    for value in listed:
        if value in seen:
            raise UserError(f"{place_of(value) or place_of(given)}{setting} has {shown(value)} twice; take one out")
        seen.add(value)
    return tuple(listed)


def _value(setting: str, value: Any) -> str:
    """A value as it is written after key=, which for a list is [a, b]."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        plain = [str(one) if re.fullmatch(r"[\w.+-]+", one) else json.dumps(one, ensure_ascii=False) for one in value]
        return Word(f"[{', '.join(plain)}]", getattr(value, "place", ""), plain=False)
    if not isinstance(value, str):
        raise UserError(
            f"{place_of(value)}{setting} has the value {value!r}; values are numbers, words and lists of them"
        )
    return value


def _range(setting: str, given: dict[str, Any]) -> list[str]:
    """The numbers of {range: [first, last, step]} or {log_range: [first, last, how many]}, both ends included."""
    if len(given) != 1:
        example = f"{{range: {_RANGES['range']}}}"
        raise UserError(f"{place_of(given)}{setting} has {shown(dict(given))}; a range is written {example}")
    ((kind, numbers),) = given.items()
    if kind not in _RANGES:
        raise UserError(f"{place_of(kind)}{unknown_name(f'{setting} key', kind, _RANGES)}")
    what = f"{setting}.{kind}"
    if not isinstance(numbers, list) or not (len(numbers) == 3 or (len(numbers) == 2 and kind == "range")):
        raise UserError(f"{place_of(numbers)}{what}={shown(numbers)} must be {_RANGES[kind]}")
    for number in numbers:
        typed(what, float, number)
    if kind == "range":
        return _stepped(what, *numbers)
    return _logarithmic(what, *numbers)


def _stepped(setting: str, first: Any, last: Any, step: Any = "1") -> list[str]:
    begin, end, stride = (Decimal(str(number)) for number in (first, last, step))
    if not stride or (end - begin) / stride < 0:
        raise UserError(f"{place_of(first)}{setting}: from {first} one does not get to {last} in steps of {step}")
    steps = (end - begin) / stride
    if steps >= MOST_VALUES:
        raise UserError(
            f"{place_of(first)}{setting}: from {first} to {last} in steps of {step} is more than {MOST_VALUES:,} values"
        )
    return [_text(begin + number * stride) for number in range(int(steps) + 1)]


def _logarithmic(setting: str, first: Any, last: Any, count: Any) -> list[str]:
    number = _count(f"{setting}[2]", count)
    begin, end = float(first), float(last)
    if begin <= 0 or end <= 0 or number < 2:
        raise UserError(
            f"{place_of(first)}{setting}=[{first}, {last}, {count}] needs two numbers above 0 and 2 values or more"
        )
    low, high = math.log(begin), math.log(end)
    inner = [math.exp(low + (high - low) * i / (number - 1)) for i in range(1, number - 1)]
    return [_text(Decimal(f"{value:.6g}")) for value in (begin, *inner, end)]


def _text(value: Decimal) -> str:
    """As people write a number: 0.3, 100, 1e-07."""
    plain = format(value.normalize(), "f")
    longest = 16 if value == value.to_integral() else 8
    return plain if len(plain) <= longest else f"{float(value):.12g}"


def _count(setting: str, given: Any) -> int:
    found: int = typed(setting, int, given)
    if not 1 <= found <= MOST_VALUES:
        raise UserError(f"{place_of(given)}{setting}={shown(given)} must be at least 1 and at most {MOST_VALUES:,}")
    return found


def _check_axis(axis: str) -> None:
    group, dot, field = axis.partition(".")
    if not (axis in TOP_LEVEL or axis in PRESETS or (group in GROUPS and (field or not dot))):
        unknown = unknown_name(
            "axis", axis, [*GROUPS, *PRESETS, *TOP_LEVEL], remedy="A key of a group works too: attack.seed."
        )
        raise UserError(f"{place_of(axis)}{unknown}")
    if axis in ("negatives", "negative_kinds", "negative_models", "false_positive_rate"):
        raise UserError(f"{place_of(axis)}axis {str(axis)!r} changes verdicts only; write it under set")
