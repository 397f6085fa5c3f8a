"""Which distributions rnet brings with it, as they are installed here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
USERS = ("mpi", "parquet", "sign")
"""The extras that change what users can do."""


def required(*extras: str) -> list[Requirement]:
    """What rnet and its extras ask for; rnet[...] in an extra stands for the extras that it names."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for one in map(Requirement, EXTRAS[extra]):
            found += required(*one.extras)[len(PROJECT["dependencies"]) :] if one.name == "rnet" else [one]
    return found


def pulled_in(*extras: str) -> dict[str, Distribution]:
    """All distributions that those requirements lead to, on this platform, by normalised name.

    Raises AssertionError if one is not installed.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = required(*extras)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                found[name] = _installed(name)
                waiting += _needed(found[name].requires or (), extra)
    return dict(sorted(found.items()))


def children(distribution: Distribution) -> set[str]:
    """What a distribution itself needs without extras, by normalised name."""
    return {canonicalize_name(one.name) for one in _needed(distribution.requires or (), "")}


def _needed(lines: Iterable[str], extra: str) -> list[Requirement]:
    asked = [Requirement(line) for line in lines]
    return [one for one in asked if one.marker is None or one.marker.evaluate({"extra": extra})]


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise AssertionError(f"{name} is not installed here; install rnet with its extras: make lint") from None
