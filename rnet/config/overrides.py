"""Overrides as users write them, key=value, and lists of them that stand for several runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rnet.config.components import REGISTRIES
from rnet.errors import UserError, first_line


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them. Raises UserError for what is none, or lists, adds or removes values."""
    for line in overrides:
        if "=" not in line:
            raise UserError(f"override {line!r} has no '='; write it as key=value, e.g. attack.iterations=10")
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"cannot read the overrides {list(overrides)}: {first_line(error)}") from None
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line!r} lists several values; give one, or quote a value with commas")
        if override.is_delete() or override.is_add() or override.is_force_add():
            raise UserError(f"{override.input_line!r}: keys cannot be added or removed; write key=value")
    return parsed


def expand_choices(
    overrides: Sequence[str], groups: Iterable[str] = ("attack", "attack.seed", "defense")
) -> list[list[str]]:
    """Overrides such as `attack=finetune,removalnet attack.seed=1,2` as one list per combination, in the order given.

    `defense=all` stands for every defence of rnet's own.
    """
    combinations: list[list[str]] = [[]]
    groups = set(groups)
    for line in overrides:
        key, _, value = line.partition("=")
        if (key, value) == ("defense", "all"):
            value = ",".join(REGISTRIES["defense"].own())
        options = [f"{key}={v.strip()}" for v in value.split(",")] if key in groups else [line]
        combinations = [[*done, option] for done in combinations for option in options]
    return combinations
