"""What configurations check of their values: messages name the setting, its value and what is valid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnet.errors import UserError, unknown_name


def check_positive(group: str, config: Any, *keys: str) -> None:
    """Raises UserError unless every key's value is above 0. group: attack, train, ..."""
    for key in keys:
        if not getattr(config, key) > 0:
            raise UserError(f"{group}.{key}={getattr(config, key)} must be above 0")


def check_at_least_1(group: str, config: Any, *keys: str) -> None:
    """Raises UserError unless every key's value is 1 or more."""
    for key in keys:
        if getattr(config, key) < 1:
            raise UserError(f"{group}.{key}={getattr(config, key)} must be at least 1")


def check_at_least_0(group: str, config: Any, *keys: str) -> None:
    """Raises UserError for a negative value, and for NaN."""
    for key in keys:
        if not getattr(config, key) >= 0:
            raise UserError(f"{group}.{key}={getattr(config, key)} must be 0 or more")


def check_share(group: str, config: Any, *keys: str) -> None:
    """Raises UserError unless every key's value is at least 0 and below 1."""
    for key in keys:
        if not 0 <= getattr(config, key) < 1:
            raise UserError(f"{group}.{key}={getattr(config, key)} must be at least 0 and below 1")


def check_names(setting: str, names: Sequence[str], *valid: str) -> None:
    """Raises UserError, with the nearest valid one, for a name that is not among the valid ones. setting: group.key."""
    for name in names:
        if name not in valid:
            raise unknown_name(setting, name, valid)
