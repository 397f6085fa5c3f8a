"""Overrides as users write them, key=value, and lists of them that stand for several runs.

What stands after the first = is the value as it is: no quotes, no escapes; the shell's own are gone by then.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from rnet.config.components import REGISTRIES
from rnet.errors import UserError

MOST_COMBINATIONS = 20_000
"""Of one command; a sweep takes more."""
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
    choices: list[list[str]] = []
    groups = set(groups)
    for line in overrides:
        key, _, value = line.partition("=")
        if (key, value) == ("defense", "all"):
            value = ",".join(REGISTRIES["defense"].own())
        choices.append([f"{key}={v.strip()}" for v in value.split(",")] if key in groups else [line])
    count = math.prod(map(len, choices))
    if count > MOST_COMBINATIONS or count * len(choices) > 100 * MOST_COMBINATIONS:
        several = " ".join(line if len(line) < 60 else f"{line[:50]}..." for line in overrides if "," in line)
        raise UserError(
            f"{several} make {f'{count:,}' if count < 10**15 else 'over 10^15'} combinations; one command runs at most "
            f"{MOST_COMBINATIONS:,}, take values out"
        )
    return [list(one) for one in itertools.product(*choices)]
