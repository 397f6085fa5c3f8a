"""A figure is made of complete lines alone; caption, data and a visible mark say what it leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rnet.figures.cost import accuracy_against_flops
from rnet.figures.curves import curves
from rnet.figures.drawing import Drawing
from rnet.figures.roc import roc
from rnet.figures.scores import NEGATIVES, scores

SCORE = {"metric": "m", "suspect": "copy", "score": 0.5, "direction": "similarity", "threshold": 0.4,
         "verdict": "derived"}  # fmt: skip
POINT = {"metric": "m", "attack": "a", "false_positive_rate": 0.5, "true_positive_rate": 1.0}
FIGURES: Mapping[str, tuple[Callable[..., Drawing], dict[str, Any], str]] = {
    "scores": (scores, SCORE, "score"),
    "roc": (roc, POINT, "true_positive_rate"),
    "cost": (accuracy_against_flops, {"attack": "a", "seed": 0, "flops": 5.0, "accuracy": 0.9}, "accuracy"),
    "curves": (curves, {"curve": "loss/total", "run": "a", "step": 3, "value": 2.5}, "value"),
}  # fmt: skip
"""By name: the function, a complete line, and a number that the line must have."""
INCOMPLETE = {
    "missing": ({"missing": "failed: out of memory"}, "failed: out of memory"),
    "none": (None, "no "),
    "nan": (math.nan, "nan"),
    "infinite": (-math.inf, "-inf"),
}


def texts(drawn: Drawing) -> list[str]:
    from matplotlib.text import Text

    return [one.get_text() for one in drawn.figure.findobj(Text) if isinstance(one, Text)]


def numbers(drawn: Drawing) -> list[float]:
    """All coordinates of all lines and marks."""
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D

    found = [value for one in drawn.figure.findobj(Line2D) for value in [*one.get_xdata(), *one.get_ydata()]]  # type: ignore[union-attr]
    marks = [one for one in drawn.figure.findobj(PathCollection) if isinstance(one, PathCollection)]
    return [float(value) for value in [*found, *(v for one in marks for v in one.get_offsets().flat)]]


@pytest.mark.parametrize("kind", INCOMPLETE)
@pytest.mark.parametrize("name", FIGURES)
def test_an_incomplete_line_is_not_drawn_and_is_said_to_be_missing(name: str, kind: str) -> None:
    make, line, needed = FIGURES[name]
    value, said = INCOMPLETE[kind]
    broken = line | (value if isinstance(value, dict) else {needed: value})
    whole, partly = make("x", "Title", [line, line]), make("x", "Title", [line, line, broken])
    assert not whole.gaps
    assert "Not shown" not in whole.caption
    assert not any("incomplete" in text for text in texts(whole))
    assert len(partly.gaps) == 1
    assert said in partly.gaps[0]
    assert partly.gaps[0] in partly.caption
    assert any(text.startswith("incomplete: 1 missing") for text in texts(partly))
    assert partly.lines[-1]["missing"]
    assert all(map(math.isfinite, numbers(partly)))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_any_complete_line_is_not_empty_without_a_word(name: str) -> None:
    make, line, _ = FIGURES[name]
    drawn = make("x", "Title", [line | {"missing": "running"}])
    assert any(text.startswith("nothing to draw: 1 missing") for text in texts(drawn))


def test_many_gaps_are_counted_and_the_first_are_named() -> None:
    drawn = scores("x", "Title", [SCORE, *(SCORE | {"suspect": f"s{i}", "missing": "running"} for i in range(9))])
    assert "s5, m: running; and 3 more" in drawn.caption
    assert len(drawn.gaps) == 9


def test_scores_are_drawn_where_they_are_beside_their_thresholds() -> None:
    lines = [SCORE | {"suspect": NEGATIVES, "score": 0.1 * place, "verdict": ""} for place in range(5)]
    drawn = scores("x", "Title", [SCORE, *lines])
    (axes,) = drawn.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["copy", NEGATIVES]
    marks = {one.get_marker(): list(one.get_xdata()) for one in axes.lines if one.get_marker() not in ("", "None")}  # type: ignore[arg-type]
    assert marks == {"o": [0.5], "x": pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])}
    (bars,) = axes.collections
    assert {tuple(segment[:, 0]) for segment in bars.get_segments()} == {(0.4, 0.4)}  # type: ignore[attr-defined]


def test_a_name_with_dollars_or_of_any_length_is_drawn_as_text() -> None:
    drawn = scores("x", "Title", [SCORE | {"suspect": "$x^{" * 40, "metric": "$\\frac"}])
    assert drawn.figure.axes[0].get_yticklabels()[0].get_text().startswith(r"\$x^{\$x^{")
