"""Tables of scores: how far attacks move them, by how much more than the baselines do, and what verdicts they get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rnet.report.models import SEEDS_NOTE
from rnet.report.records import Score, Study, Trial, grouped, key_of, missing, once
from rnet.report.statistics import away, min_max, ratio, summary
from rnet.report.table import MISSING, PLANNED, Column, Table, axis_columns

LABELS = ("derived", "undecided", "independent")
COUNTED = [*(Column(name=label, kind="count") for label in LABELS), Column(name="of", kind="count")]


def effectiveness(study: Study) -> Table:
    """One line per attack, victim, defence and metric."""
    tests = once(study.trials, "test_id")
    relative = _relative(tests)
    known: dict[Any, dict[str, str | None]] = {}
    for trial in tests:
        directions = known.setdefault(key_of(trial.axes, "fingerprint"), {})
        directions.update({score.name: score.direction for score in trial.scores})
    lines: list[dict[str, Any]] = []
    for key, runs in grouped(tests, lambda trial: key_of(trial.axes, "train", "attack", "fingerprint")).items():
        metrics = known[key_of(runs[0].axes, "fingerprint")] or {f"{runs[0].axes.get('defense', '')}/*": None}
        lines += [
            {**dict(key), "metric": name, "direction": direction, **_line(name, runs, relative)}
            for name, direction in metrics.items()
        ]
    return Table(
        name="effectiveness",
        title="Effectiveness: how far the suspects are from the victim",
        columns=[
            *axis_columns([dict(key_of(trial.axes, "train", "attack", "fingerprint")) for trial in tests]),
            Column(name="metric"), Column(name="direction"), Column(name="score", kind="summary"),
            Column(name="min_max", kind="summary", title="min-max distance", decimals=3),
            Column(name="ratio", kind="summary", title="ratio to the baselines", none="none"),
            *COUNTED, PLANNED, MISSING,
        ],
        lines=lines,
        notes=(
            SEEDS_NOTE,
            "min-max distance: (d - min) / (max - min + 1e-8) over all attacks and seeds of a data set and "
            "architecture, 1 minus that for similarities; 1 is farthest from the victim. Another attack in the table "
            "changes all of them.",
            "ratio: d, or 1 - s of a similarity, over the median of the baselines' of the same data set and "
            "architecture; none where that median is 0, or the metric has no zero point. "
            f"{_baselines(tests)}",
            "derived, undecided, independent: how often the metric alone says so; see verdicts for the defences' own.",
        ),
    )  # fmt: skip


def verdicts(study: Study) -> Table:
    """One line per attack, victim and judge: a defence by its first metric or its vote, and all of them together."""
    tests = once(study.trials, "test_id")
    lines: list[dict[str, Any]] = []
    for key, of_suspect in grouped(tests, lambda trial: key_of(trial.axes, "train", "attack")).items():
        for defense, runs in grouped(of_suspect, lambda trial: key_of(trial.axes, "fingerprint")).items():
            judge = "vote" if any(run.votes for run in runs) else "first metric"
            said = [run.verdict for run in runs if not run.state]
            states = [run.state for run in runs]
            lines.append({**dict(key), **dict(defense), "judge": judge, **_verdicts(said, states)})
        combined = [run.combined for run in once(of_suspect, "suspect_id")]
        if any(combined):
            said = [found["verdict"] for found in combined if found]
            states = ["" if found else "no combined verdict" for found in combined]
            lines.append({**dict(key), "judge": "all defences together", **_verdicts(said, states)})
    return Table(
        name="verdicts",
        title="Verdicts: how often a defence calls the suspects derived",
        columns=[
            *axis_columns([dict(key_of(trial.axes, "train", "attack", "fingerprint")) for trial in tests]),
            Column(name="judge"), *COUNTED, PLANNED, MISSING,
        ],
        lines=lines,
        notes=("of: the number of seeds with a verdict.",),
    )  # fmt: skip


def _line(name: str, runs: Sequence[Trial], relative: Mapping[tuple[str | None, str], Mapping[str, Any]]) -> Any:
    found: list[tuple[Trial, Score]] = [(run, score) for run in runs for score in run.scores if score.name == name]
    low, high = (found[0][1].low, found[0][1].high) if found else (0.0, 1.0)
    of = [relative[run.test_id, name] for run, _ in found]
    states = [
        run.state or ("" if any(score.name == name for score in run.scores) else _why_not(name, run)) for run in runs
    ]
    return {
        "score": summary((score.value for _, score in found), low, high),
        "min_max": summary((one["min_max"] for one in of), 0.0, 1.0),
        "ratio": summary((one["ratio"] for one in of), 0.0),
        **_verdicts([score.verdict for _, score in found], states),
    }


def _why_not(name: str, run: Trial) -> str:
    return f"left out: {run.left_out[name]}" if name in run.left_out else run.reason


def _verdicts(said: Sequence[str], states: Sequence[str]) -> dict[str, Any]:
    counts = Counter(said)
    return {
        **{label: counts[label] for label in LABELS},
        "of": len(said), "planned": len(states), "missing": missing(states) or None,
    }  # fmt: skip


def _relative(tests: Sequence[Trial]) -> dict[tuple[str | None, str], dict[str, Any]]:
    """min_max and ratio of each (test, metric): over all attacks and seeds of a data set, architecture and defence."""
    found: dict[tuple[str | None, str], dict[str, Any]] = {}
    for trials in grouped(tests, lambda trial: key_of(trial.axes, "train", "fingerprint")).values():
        pairs = [(trial, score) for trial in trials for score in trial.scores]
        for name, members in grouped(pairs, lambda pair: pair[1].name).items():
            direction = members[0][1].direction
            distances = [away(s.value, s.direction, s.low, s.high) for _, s in members]
            baselines = [
                far for far, (trial, _) in zip(distances, members, strict=True) if trial.baseline and far is not None
            ]
            middle = median(baselines) if baselines else None
            normalised = min_max([score.value for _, score in members], direction)
            for (trial, _), share, far in zip(members, normalised, distances, strict=True):
                found[trial.test_id, name] = {"min_max": share, "ratio": ratio(far, middle)}
    return found


def _baselines(tests: Sequence[Trial]) -> str:
    names = sorted({str(trial.axes.get("attack", trial.kind)) for trial in tests if trial.baseline})
    return f"Baselines here: {', '.join(names)}." if names else "There are no baselines here, so there is no ratio."
