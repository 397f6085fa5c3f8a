"""From a study to the figures of its page: scores, ROC curves, costs, and curves over training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rnet.figures.cost import accuracy_against_flops
from rnet.figures.curves import curves
from rnet.figures.drawing import Drawing
from rnet.figures.roc import roc
from rnet.figures.scores import NEGATIVES, scores
from rnet.report.records import GIVEN, Key, NegativeModel, Study, Trial, grouped, key_of, missing, once
from rnet.storage.json_files import read_log
from rnet.verdicts.roc import FEWEST, oriented, roc_auc, roc_points

MOST_POINTS = 120
"""Of a curve on a page; of a longer one every n-th is shown."""
MOST_CURVES = 6
MOST_PANELS = 12
"""Of victims times metrics; where there are more, a page shows each defence's first metric alone."""
WATCHED = ("fidelity", "accuracy", "agreement", "evasion", "loss", "latent")
"""Groups of curves by which one follows an attack, in the order in which they are shown."""


def score_figures(study: Study) -> list[Drawing]:
    """Of every victim: its suspects' and negatives' scores, a panel for each metric."""
    found = []
    for key, tests in _by_victim(study).items():
        lines = [
            line
            for own, of_defense in _by_defense(tests).items()
            for line in (*_scores_of(of_defense), *_scores_of_negatives(study, own, of_defense))
        ]
        found.append(scores(_name("scores", key), f"Scores and thresholds: {_said(key)}", _few(lines, study)))
    return found


def roc_figures(study: Study) -> list[Drawing]:
    """Of every victim: a panel for each metric, with a curve for each attack."""
    found = []
    for key, tests in _by_victim(study).items():
        lines = [
            line
            for own, of_defense in _by_defense(tests).items()
            for line in _roc_lines(of_defense, _negatives_of(study, own))
        ]
        if any("false_positive_rate" in line for line in lines):
            found.append(roc(_name("roc", key), f"ROC curves: {_said(key)}", _few(lines, study)))
    return found


def only_first_metrics(study: Study) -> bool:
    """Whether there are so many metrics that figures show the first of each defence alone."""
    victims = {key_of(one.axes, "train") for one in study.trials}
    return len(victims) * len({score.name for one in study.trials for score in one.scores}) > MOST_PANELS


def _few(lines: Sequence[dict[str, Any]], study: Study) -> list[dict[str, Any]]:
    if not only_first_metrics(study):
        return [*lines]
    first: dict[str, str] = {}
    for line in lines:
        first.setdefault(line["metric"].partition("/")[0], line["metric"])
    return [line for line in lines if line["metric"] in first.values()]


def cost_figures(study: Study) -> list[Drawing]:
    """Of every victim: accuracy against the FLOPs of the attack."""
    suspects = [one for one in once(study.trials, "suspect_id") if one.kind not in ("identity", GIVEN)]
    found = []
    for key, trials in grouped(suspects, lambda one: key_of(one.axes, "train")).items():
        lines = [
            {
                "attack": label_of(one), "seed": one.axes.get("seed"), "flops": one.result.get("cost", {}).get("flops"),
                "accuracy": one.result.get("accuracy"), "victim_accuracy": one.result.get("victim_accuracy"),
                "missing": one.suspect_state or None,
            }
            for one in trials
        ]  # fmt: skip
        found.append(accuracy_against_flops(_name("cost", key), f"Accuracy against cost: {_said(key)}", lines))
    return found


def curve_figures(study: Study, root: Path) -> list[Drawing]:
    """Of every victim: what its suspects logged while they were made, of the first seed of each attack."""
    found = []
    for key, trials in grouped(once(study.trials, "suspect_id"), lambda one: key_of(one.axes, "train")).items():
        lines: list[dict[str, Any]] = []
        attacks = grouped(trials, label_of)
        for label, runs in attacks.items():
            first = runs[0]
            if first.suspect_state:
                lines.append({"curve": "all curves", "run": label, "missing": first.suspect_state})
            else:
                lines += [{**line, "run": label} for line in logged(root / "attack" / first.suspect_id / "log.jsonl")]
        title = f"Curves over training: {_said(key)}"
        if figure := curves_of(_name("curves", key), title, lines, [*attacks]):
            found.append(figure)
    return found


def curves_of(
    name: str, title: str, lines: Sequence[dict[str, Any]], order: Sequence[str] = ()
) -> Drawing | None:  # fmt: skip
    """The most watched curves of these lines (curve, run, step, value); None where nothing was logged."""
    there = dict.fromkeys(line["curve"] for line in lines if "value" in line)
    shown = sorted(there, key=lambda curve: (_watched(curve), curve.endswith("/batch")))[:MOST_CURVES]
    if not shown:
        return None
    kept = [line for line in lines if line["curve"] in shown or line.get("missing")]
    return curves(name, title, sorted(kept, key=lambda line: [*shown, line["curve"]].index(line["curve"])), order)


def logged(path: Path) -> Iterator[dict[str, Any]]:
    """The points of the curves in a log.jsonl (curve, step, value) that are worth watching, by curve."""
    points: dict[str, list[tuple[int, float]]] = {}
    for values in read_log(path):
        for name, value in values.items():
            if name.partition("/")[0] in WATCHED:
                points.setdefault(name, []).append((values["step"], float(value)))
    for name, found in points.items():
        every = math.ceil(len(found) / MOST_POINTS)
        for number, (step, value) in enumerate(found):
            if number % every == 0 or number == len(found) - 1 or not math.isfinite(value):
                yield {"curve": name, "step": step, "value": value}


def label_of(trial: Trial) -> str:
    """How figures call a suspect: its attack, with what else differs of it; the copy itself is the victim."""
    values = [str(value) for _, value in key_of(trial.axes, "attack")]
    return "victim" if trial.kind == "identity" else " ".join(values) or trial.kind


def _watched(curve: str) -> int:
    group = curve.partition("/")[0]
    return WATCHED.index(group) if group in WATCHED else len(WATCHED)


def _by_victim(study: Study) -> dict[Key, list[Trial]]:
    tests = [one for one in once(study.trials, "test_id") if one.test_id]
    return grouped(tests, lambda one: key_of(one.axes, "train"))


def _by_defense(tests: Sequence[Trial]) -> dict[Key, list[Trial]]:
    return grouped(tests, lambda one: key_of(one.axes, "train", "fingerprint"))


def _negatives_of(study: Study, key: Key) -> list[NegativeModel]:
    found = [one for one in study.negatives if key_of(one.axes, "train", "fingerprint") == key]
    return [*{one.test_id: one for one in found}.values()]


def _scores_of(tests: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    known = dict.fromkeys(score.name for test in tests for score in test.scores)
    for test in tests:
        about = {"suspect": label_of(test), "seed": test.axes.get("seed")}
        by_name = {score.name: score for score in test.scores}
        for name in known or [f"{test.axes.get('defense', 'all')}/*"]:
            if score := by_name.get(name):
                yield {
                    "metric": name, **about, "score": score.value, "direction": score.direction,
                    "threshold": score.threshold, "verdict": score.verdict,
                }  # fmt: skip
            else:
                why = test.state or test.left_out.get(name) or test.reason or "no score"
                yield {"metric": name, **about, "missing": why}


def _scores_of_negatives(study: Study, key: Key, tests: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    directions = {score.name: score.direction for test in tests for score in test.scores}
    thresholds = {(tuple(one.axes.items()), one.metric): one.threshold for one in study.thresholds}
    for one in _negatives_of(study, key):
        about = {"suspect": NEGATIVES, "seed": one.seed}
        for name, direction in directions.items():
            why = one.state or (f"left out: {one.left_out}" if one.left_out else None)
            yield {
                "metric": name, **about, "score": one.scores.get(name), "direction": direction,
                "threshold": thresholds.get((tuple(one.axes.items()), name)), "verdict": "", "missing": why,
            }  # fmt: skip


def _roc_lines(tests: Sequence[Trial], negatives: Sequence[NegativeModel]) -> Iterator[dict[str, Any]]:
    directions: dict[str, Any] = {score.name: score.direction for test in tests for score in test.scores}
    suspects = [test for test in tests if test.state or test.derived]
    for label, runs in grouped(suspects, lambda one: GIVEN if one.kind == GIVEN else label_of(one)).items():
        if all(run.kind == "identity" for run in runs):
            continue
        for name, direction in directions.items():
            values = [[s.value for s in run.scores if s.name == name] for run in runs]
            positive = [one[0] for one in values if one and math.isfinite(one[0])]
            others = [one.scores[name] for one in negatives if math.isfinite(one.scores.get(name, math.nan))]
            about = {"metric": name, "attack": label}
            states = [run.state or ("" if own and math.isfinite(own[0]) else "no finite score")
                      for run, own in zip(runs, values, strict=True)]  # fmt: skip
            states += [one.state or ("" if math.isfinite(one.scores.get(name, math.nan)) else "no finite score")
                       for one in negatives]  # fmt: skip
            if min(len(positive), len(others)) < FEWEST:
                few = f"a curve needs {FEWEST} suspects and {FEWEST} negatives, of {len(positive)} and {len(others)}"
                yield {**about, "missing": "; ".join(filter(None, [few, missing(states)]))}
                continue
            if why := missing(states):
                yield {**about, "missing": why}
            one, two = oriented(positive, direction), oriented(others, direction)
            counts = {"auc": float(roc_auc(one, two)), "positives": len(positive), "negatives": len(others)}
            for false, true in roc_points(one, two):
                yield {**about, "false_positive_rate": false, "true_positive_rate": true, **counts}


def _said(key: Key) -> str:
    return ", ".join(str(value) for _, value in key) or "all"


def _name(figure: str, key: Key) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{figure} {_said(key)}".lower()).strip("-")
