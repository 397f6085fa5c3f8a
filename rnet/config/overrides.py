"""Overrides as users write them, key=value, and lists of them that stand for several runs.

What stands after the first = is the value as it is: no quotes, no escapes; the shell's own are gone by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from rnet.config.components import REGISTRIES
from rnet.config.values import shown
from rnet.errors import UserError

MOST_COMBINATIONS = 100_000
_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


@lru_cache(maxsize=4096)
def parse_override(line: str) -> tuple[str, str]:
    """(key, text of the value). Raises UserError for what is none, or would add or remove a key."""
    key, equals, text = line.partition("=")
    if not equals:
        raise UserError(f"override {line!r} has no '='; write it as key=value, e.g. attack.iterations=10")
    if key[:1] in ("+", "~"):
        raise UserError(f"{line!r}: keys cannot be added or removed; write key=value")
    if not _KEY.fullmatch(key):
        raise UserError(f"{line!r}: {key!r} is no key; write key=value, e.g. attack.iterations=10")
    return key, text


def expand_choices(
    overrides: Sequence[str], groups: Iterable[str] = ("attack", "attack.seed", "defense", "seed")
) -> list[list[str]]:
    """Overrides such as `attack=finetune,removalnet seed=1,2` as one list per combination, in the order given.

    `defense=all` stands for every defence of rnet's own. Raises UserError for more than anybody runs at once.
    """
    combinations: list[list[str]] = [[]]
    count = 1
    groups = set(groups)
    for line in overrides:
        key, _, value = line.partition("=")
        if (key, value) == ("defense", "all"):
            value = ",".join(REGISTRIES["defense"].own())
        options = [f"{key}={v.strip()}" for v in value.split(",")] if key in groups else [line]
        count *= len(options)
        if count > MOST_COMBINATIONS:
            raise UserError(
                f"{key}={shown(value)} makes {count:,} combinations with what stands before it; at most "
                f"{MOST_COMBINATIONS:,} are run by one command, take values out"
            )
        combinations = [[*done, option] for done in combinations for option in options]
    return combinations
