"""Durations in words."""

from __future__ import annotations

import pytest

from rnet.durations import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (45.4, "45 s"), (99, "99 s"), (100, "2 min"), (89 * 60, "89 min"), (7500, "2 h 5 min"),
        (48 * 3600, "48 h 0 min"), (49 * 3600, "2 days"), (12 * 86400, "12 days"),
    ],
)  # fmt: skip
def test_a_duration_is_said_in_its_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
