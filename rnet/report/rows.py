"""The table of single rows: every suspect under every defence, one line per metric, finished or not."""

from __future__ import annotations

from typing import Any

from rnet.report.records import Study, Trial
from rnet.report.table import Column, Table, axis_columns, percent

FIDELITY = ("accuracy", "victim_accuracy", "drop", "agreement")


def rows(study: Study) -> Table:
    """All axes with seeds, accuracy, score, threshold, verdicts, ids; what is not there says why."""
    return Table(
        name="rows",
        title="Rows: every suspect under every defence",
        columns=[
            *axis_columns([trial.axes for trial in study.trials]), *(percent(name, "number") for name in FIDELITY),
            Column(name="metric"), Column(name="score", kind="number"), Column(name="direction"),
            Column(name="threshold", kind="number", none="none"),
            Column(name="no_threshold", title="why no threshold", optional=True),
            Column(name="normalised", kind="number", optional=True),
            Column(name="metric_verdict", title="by the metric"), Column(name="verdict", title="by the defence"),
            Column(name="combined", title="by all defences", optional=True), Column(name="negatives", kind="count"),
            Column(name="negatives_planned", kind="count", title="of"), Column(name="state"), Column(name="reason"),
            Column(name="attack_id"), Column(name="verify_id"),
        ],
        lines=[line for trial in study.trials for line in _lines(trial)],
        notes=("score and threshold are in the metric's own unit; where there is no threshold, the reason says why.",),
    )  # fmt: skip


def _lines(trial: Trial) -> list[dict[str, Any]]:
    known = {
        **trial.axes,
        **{name: trial.result.get(name) for name in FIDELITY},
        "negatives": trial.negatives if not trial.state else None,
        "negatives_planned": trial.negatives_planned,
        "state": f"missing: {trial.state}" if trial.state else "done",
        "verdict": trial.verdict or None,
        "combined": trial.combined["verdict"] if trial.combined else None,
        "reason": trial.reason or None,
        "attack_id": trial.suspect_id,
        "verify_id": trial.test_id,
    }
    scored = [
        known
        | {
            "metric": score.name, "score": score.value, "direction": score.direction, "threshold": score.threshold,
            "no_threshold": score.no_threshold,
            "normalised": score.normalised, "metric_verdict": score.verdict, "reason": score.reason,
        }
        for score in trial.scores
    ]  # fmt: skip
    left_out = [
        known | {"metric": name, "state": f"left out: {why}", "verdict": None} for name, why in trial.left_out.items()
    ]
    return scored + left_out or [known]
