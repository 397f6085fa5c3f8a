"""What went wrong in a sweep, once for all cells that say the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_VARIES = re.compile(r"[0-9a-f]{16}|\d+(?:\.\d+)?(?:e[+-]?\d+)?|0x[0-9a-f]+")
"""Ids and numbers, in which two errors of the same kind may differ."""


def _causes_first(group: tuple[tuple[str, str], list[dict[str, Any]]]) -> tuple[bool, int]:
    (state, _), members = group
    return state == "blocked", -len(members)


def grouped(failures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Failures by state and last error, numbers and ids apart, the most frequent first; what is only blocked, last.

    Each: the state, the error of its first cell, how many cells there are, by stage too, and that first cell's name,
    label, log and command.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for failure in failures:
        groups.setdefault((failure["state"], _VARIES.sub("#", failure["error"])), []).append(failure)
    return [
        {
            "state": state,
            "error": members[0]["error"],
            "cells": len(members),
            "stages": dict(Counter(member["stage"] for member in members)),
            "example": {key: members[0][key] for key in ("name", "cell", "log", "command")},
        }
        for (state, _), members in sorted(groups.items(), key=_causes_first)
    ]
