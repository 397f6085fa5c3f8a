"""The finished table of a sweep: every row's scores and verdicts, judged against the row's own negatives."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from launch.sweep.plan.compose_cache import ConfigCache
from launch.sweep.plan.plan import Plan, Row
from rnet.defenses.base import Metric
from rnet.defenses.registry import DEFENSES
from rnet.errors import unknown_name
from rnet.storage.json_files import read_json
from rnet.verdicts.examine import judge_scores

FORMATS = ("markdown", "csv", "json")
FIDELITY = ("accuracy", "victim_accuracy", "drop", "agreement")
COLUMNS = (
    *FIDELITY, "metric", "score", "direction", "threshold", "verdict", "reason", "negatives", "attack_id", "verify_id"
)  # fmt: skip


def report_lines(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """One line per row and metric: the axes, then COLUMNS. A row that is not finished has one line without scores.

    DeepJudge's lines have its own vote as verdict. Shares are in [0, 1]; score and threshold in the metric's unit.
    """
    configs = ConfigCache(Path(plan.config_dir) if plan.config_dir else None)
    results: dict[int, dict[str, Any] | None] = {}

    def result(place: int) -> dict[str, Any] | None:
        if place not in results:
            results[place] = read_json(plan.folder(root, plan.cells[place]) / "result.json")
        return results[place]

    @cache
    def about(verify: int) -> tuple[str, tuple[Metric, ...], float]:
        config = configs.load(_without_seed(plan.overrides(plan.cells[verify])))
        defense = DEFENSES.build(config.defense)
        return defense.name, tuple(defense.metrics), config.false_positive_rate

    same: dict[tuple[str, ...], int] = {}
    lines = []
    for row in plan.rows:
        verify = row.cells.get("verify")
        scores = None if verify is None else result(verify)
        known = _known(plan, row, result)
        if scores is None or verify is None:
            lines.append(_line(row, known))
            continue
        key = tuple(_without_seed(plan.overrides(plan.cells[verify])))
        name, metrics, alpha = about(same.setdefault(key, verify))
        negatives = [found["scores"] for place in row.negatives if place != verify and (found := result(place))]
        lines += [_line(row, known | found) for found in _judged(name, metrics, scores["scores"], negatives, alpha)]
    return lines


def complete(plan: Plan, root: Path) -> bool:
    """Whether every row has its scores and every one of its negatives."""
    places = {place for row in plan.rows for place in (*row.cells.values(), *row.negatives)}
    return all((plan.folder(root, plan.cells[place]) / "result.json").exists() for place in places)


def format_lines(lines: Sequence[Mapping[str, Any]], kind: str) -> str:
    """The lines as Markdown, CSV or JSON; the same lines give the same bytes."""
    if kind not in FORMATS:
        raise unknown_name("--format", kind, FORMATS)
    columns = list(lines[0])
    if kind == "json":
        return json.dumps(list(lines), indent=2) + "\n"
    if kind == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()
    shown = [name for name in columns if name not in ("reason", "direction", "attack_id", "verify_id")]
    table = [shown, ["---"] * len(shown), *([_cell(line[name]) for name in shown] for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


def _known(plan: Plan, row: Row, result: Any) -> dict[str, Any]:
    """What is known of the row's suspect."""
    place = row.cells.get("attack", row.cells["train"])
    found = result(place) or {}
    ids = {f"{stage}_id": plan.cells[row.cells[stage]].id for stage in ("attack", "verify") if stage in row.cells}
    return {**{name: found.get(name) for name in FIDELITY}, **ids}


def _line(row: Row, found: Mapping[str, Any]) -> dict[str, Any]:
    return {**row.values, **{name: found.get(name) for name in COLUMNS}}


def _judged(
    defense: str,
    metrics: Sequence[Metric],
    scores: Mapping[str, float],
    negatives: Sequence[Mapping[str, float]],
    alpha: float,
) -> list[dict[str, Any]]:
    """One entry per metric that was scored; DeepJudge's have its vote for their verdict."""
    judged = judge_scores(defense, metrics, scores, negatives, alpha)
    overall = judged if defense == "deepjudge" and len(negatives) >= 2 else None
    return [
        {
            "metric": name, "score": found["value"], "direction": found["direction"], "threshold": found["threshold"],
            "verdict": (overall or found)["verdict"], "reason": (overall or found)["reason"],
            "negatives": len(negatives),
        }
        for name, found in judged["metrics"].items()
    ]  # fmt: skip


def _without_seed(lines: Sequence[str]) -> list[str]:
    """What decides the metrics: seeds do not, and nor does the attack."""
    return [line for line in lines if not line.startswith(("seed=", "attack"))]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
