"""Tables of the defender's side: how well metrics separate, what the negatives are, and which thresholds they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnet.defenses.metric import Metric
from rnet.report.records import GIVEN, Key, NegativeModel, Score, Study, Trial, grouped, key_of, missing, once
from rnet.report.table import MISSING, Column, Table, axis_columns, percent
from rnet.verdicts.roc import FEWEST, separation

_INTERVALS = ("auc", "tpr_at_5", "tpr_strict")


def separations(study: Study) -> Table:
    """One line per attack, victim, defence and metric: derived suspects of all seeds against their negatives."""
    tests = once(study.trials, "test_id")
    by_defense = grouped(study.negatives, lambda negative: key_of(negative.axes, "train", "fingerprint"))
    lines: list[dict[str, Any]] = []
    for key, runs in grouped(tests, _group).items():
        if runs[0].result and not any(run.derived for run in runs):
            continue  # an independent model, or one of unknown origin
        negatives = {one.test_id: one for one in by_defense.get(key_of(runs[0].axes, "train", "fingerprint"), ())}
        suspects = [run for run in runs if run.derived]
        metrics = {score.name: score for run in suspects for score in run.scores}
        states = [run.state for run in runs] + [one.state for one in negatives.values()]
        for name, score in metrics.items():
            lines.append({**dict(key), "metric": name, **_separated(score, suspects, [*negatives.values()], states)})
    columns = [column for name in _INTERVALS for column in _interval_columns(name)]
    return Table(
        name="separation",
        title="Separation: derived suspects against independent models",
        columns=[
            *axis_columns([dict(key_of(trial.axes, "train", "attack", "fingerprint")) for trial in tests]),
            Column(name="metric"), Column(name="positives", kind="count"), Column(name="negatives", kind="count"),
            *columns, Column(name="strict_level", title="strict at"),
            Column(name="aruc", kind="number", title="ARUC", decimals=3), MISSING,
        ],
        lines=lines,
        notes=(
            "AUC: area under the ROC curve, 1 where every suspect looks more derived than every negative. TPR: "
            "true positive rate at 5 % false positives, and, strictly, at 1 % (100 negatives or more) or at none. "
            "from, to: 95 % bootstrap intervals, positives and negatives resampled separately.",
            "positives: derived suspects of all seeds; negatives: scored independent models of all seeds. ARUC: for "
            "similarities in [0, 1].",
        ),
    )  # fmt: skip


def _group(trial: Trial) -> Key:
    """Runs that differ in seeds only; and suspects that were given to the user, which have no seeds."""
    key = key_of(trial.axes, "train", "attack", "fingerprint")
    if trial.kind != GIVEN:
        return key
    return tuple((axis, GIVEN if axis == "attack" else value) for axis, value in key)


def _separated(
    score: Score, suspects: Sequence[Trial], negatives: Sequence[NegativeModel], states: Sequence[str]
) -> dict[str, Any]:
    positive = [found.value for run in suspects for found in run.scores if found.name == score.name]
    negative = [one.scores[score.name] for one in negatives if score.name in one.scores]
    line: dict[str, Any] = {
        "positives": len(positive), "negatives": len(negative),
        "missing": missing(states) or None,
    }  # fmt: skip
    if min(len(positive), len(negative)) < FEWEST:
        few = f"a ROC curve needs {FEWEST} of each"
        return line | {"missing": f"{few}; {line['missing']}" if line["missing"] else few}
    metric = Metric(name=score.name, direction=score.direction, low=score.low, high=score.high)  # type: ignore[arg-type]
    found = separation(positive, negative, metric)
    for name in _INTERVALS:
        low, high = getattr(found, f"{name}_interval")
        line |= {name: getattr(found, name), f"{name}_low": low, f"{name}_high": high}
    return line | {"strict_level": found.strict_level, "aruc": found.aruc}


def _interval_columns(name: str) -> list[Column]:
    title = {"auc": "AUC", "tpr_at_5": "TPR at 5 % FPR", "tpr_strict": "strict TPR"}[name]
    return [
        Column(name=name, kind="number", title=title, decimals=3),
        Column(name=f"{name}_low", kind="number", title="from", decimals=3),
        Column(name=f"{name}_high", kind="number", title="to", decimals=3),
    ]


def negative_models(study: Study) -> Table:
    """One line per victim, defence, negative and metric: what the thresholds are made from."""
    lines: list[dict[str, Any]] = []
    for one in study.negatives:
        about = {
            **one.axes, "negative": one.suspect_id, "kind": one.kind, "negative_seed": one.seed,
            "accuracy": one.accuracy, "agreement": one.agreement,
            "missing": missing([one.state]) or (f"left out: {one.left_out}" if one.left_out else None),
        }  # fmt: skip
        scored = [{"metric": name, "score": value} for name, value in one.scores.items()]
        lines += [about | line for line in scored or [{"metric": None, "score": None}]]
    return Table(
        name="negatives",
        title="Negatives: the independent models and their scores",
        columns=[
            *axis_columns([one.axes for one in study.negatives]), Column(name="negative"), Column(name="kind"),
            Column(name="negative_seed", kind="count", title="its seed"), percent("accuracy", "number"),
            percent("agreement", "number"), Column(name="metric"), Column(name="score", kind="number"), MISSING,
        ],
        lines=lines,
        notes=("Models that did not learn the victim's job calibrate nothing: look at their accuracy first.",),
    )  # fmt: skip


def thresholds(study: Study) -> Table:
    """One line per victim, defence and metric: the threshold, or none with the reason."""
    return Table(
        name="thresholds",
        title="Thresholds: from which score on a suspect is called derived",
        columns=[
            *axis_columns([one.axes for one in study.thresholds]), Column(name="metric"), Column(name="direction"),
            Column(name="rule"), Column(name="scale"), Column(name="n", kind="count", title="negatives"),
            Column(name="threshold", kind="number", none="none"),
            Column(name="reason", title="why none", optional=True),
            percent("false_positive_rate", "number", title="promised rate"),
            percent("leave_one_out", "number", title="leave-one-out rate"), Column(name="warning", optional=True),
        ],
        lines=[
            {
                **one.axes,
                **{
                    name: getattr(one, name)
                    for name in (
                        "metric", "direction", "rule", "scale", "n", "threshold", "reason", "false_positive_rate",
                        "leave_one_out",
                    )
                },
                "warning": one.warning or None,
            }
            for one in study.thresholds
        ],
        notes=(
            "promised rate: how often one more independent model may be called derived. leave-one-out rate: the share "
            "of these negatives that the others would call derived.",
        ),
    )  # fmt: skip
