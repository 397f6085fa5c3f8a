"""The finished tables of a sweep: every row's scores and verdicts, and how well each metric separates.

Rows are judged as `rnet verify` does it, each against its own negatives. Separation is over the seeds of a row: its
derived suspects against the negatives of all of them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.sweep.plan.plan import Plan, Row
from rnet.config.documents import run_from_dict
from rnet.defenses.base import Defense
from rnet.defenses.registry import DEFENSES
from rnet.errors import unknown_name
from rnet.storage.json_files import read_json
from rnet.verdicts.judging import judgement, metric_rows, negatives_of, own_scores
from rnet.verdicts.roc import separations_of

FORMATS = ("markdown", "csv", "json")
FIDELITY = ("accuracy", "victim_accuracy", "drop", "agreement")
COLUMNS = (
    *FIDELITY, "metric", "score", "direction", "threshold", "normalised", "verdict", "reason", "negatives",
    "attack_id", "verify_id",
)  # fmt: skip
_NOT_IN_MARKDOWN = ("reason", "direction", "attack_id", "verify_id")

Line = dict[str, Any]


def report_lines(plan: Plan, root: Path) -> list[Line]:
    """One line per row and metric: the axes, then COLUMNS. A row that is not finished has one line without scores.

    Where a defence votes, its lines have the vote as verdict. Shares are in [0, 1]; score and threshold in the metric's
    unit; normalised is the score relative to the negatives' mean, where the defence compares so.
    """
    study = _Study(plan, root)
    lines = []
    for row in plan.rows:
        index = row.cells.get("attack", row.cells["train"])
        found = study.result(index) or {}
        ids = {f"{stage}_id": plan.cells[row.cells[stage]].id for stage in ("attack", "verify") if stage in row.cells}
        known = {**row.values, **dict.fromkeys(COLUMNS), **{name: found.get(name) for name in FIDELITY}, **ids}
        lines += [known | judged for judged in study.judged(row)] or [known]
    return lines


def separation_lines(plan: Plan, root: Path) -> list[Line]:
    """One line per row, seeds left aside, and metric that has two derived suspects and two negatives.

    The axes but for seeds, metric, positives, negatives, and the fields of Separation, intervals as _low and _high.
    """
    study = _Study(plan, root)
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in plan.rows:
        key = tuple((axis, value) for axis, value in row.values.items() if axis.split(".")[-1] != "seed")
        groups.setdefault(key, []).append(row)
    lines = []
    for key, rows in groups.items():
        derived = [row for row in rows if study.counts_as_derived(row)]
        if not derived or "verify" not in derived[0].cells:
            continue
        defense, _ = study.defense(derived[0].cells["verify"])
        positives = study.scores(defense, [row.cells["verify"] for row in derived])
        negatives = study.scores(defense, dict.fromkeys(index for row in rows for index in row.negatives))
        for name, found in separations_of(defense.metrics, positives, negatives).items():
            lines.append({**dict(key), "metric": f"{defense.name}/{name}", **_flat(asdict(found))})
    return lines


def complete(plan: Plan, root: Path) -> bool:
    """Whether every row has its scores and every one of its negatives."""
    indices = {index for row in plan.rows for index in (*row.cells.values(), *row.negatives)}
    return all((plan.folder(root, plan.cells[index]) / "result.json").exists() for index in indices)


def format_lines(lines: Sequence[Line], kind: str) -> str:
    """The lines as Markdown, CSV or JSON; the same lines give the same bytes."""
    if kind not in FORMATS:
        raise unknown_name("--format", kind, FORMATS)
    columns = list(lines[0]) if lines else []
    if kind == "json":
        return json.dumps(list(lines), indent=2) + "\n"
    if not lines:
        return ""
    if kind == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()
    shown = [name for name in columns if name not in _NOT_IN_MARKDOWN]
    table = [shown, ["---"] * len(shown), *([_cell(line[name]) for name in shown] for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


class _Study:
    """What is finished of a plan; files and configurations are read once."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan, self._root = plan, root
        self._results: dict[int, Line | None] = {-1: None}
        self._defenses: dict[str, tuple[Defense, float]] = {}

    def result(self, index: int) -> Line | None:
        """The cell's result, None if it is not finished."""
        if index not in self._results:
            self._results[index] = read_json(self._plan.folder(self._root, self._plan.cells[index]) / "result.json")
        return self._results[index]

    def counts_as_derived(self, row: Row) -> bool:
        """Whether the row's suspect is known to derive from the victim, and has the classes that the negatives have."""
        found = self.result(row.cells.get("attack", -1)) or {}
        return bool(found.get("derived")) and "not_measured" not in found

    def defense(self, verify: int) -> tuple[Defense, float]:
        """The defence of a verify cell, and the row's false-positive rate."""
        config = run_from_dict(self._plan.configuration(self._plan.cells[verify]))
        key = repr((config.defense, config.false_positive_rate))
        if key not in self._defenses:
            self._defenses[key] = DEFENSES.build(config.defense), config.false_positive_rate
        return self._defenses[key]

    def scores(self, defense: Defense, indices: Any) -> list[dict[str, float]]:
        """The scores in those verify cells that are finished."""
        return [own_scores(defense, result) for index in indices if (result := self.result(index)) is not None]

    def _about(self, row: Row) -> Line:
        """The metadata of the row's fingerprint."""
        return (self.result(row.cells.get("fingerprint", -1)) or {}).get("metadata", {})

    def _suspect_of(self, verify: int) -> Line:
        """The result of the attack cell whose suspect a verify cell has tested."""
        cells = self._plan.cells
        parents = cells[verify].parents
        return next((self.result(index) or {} for index in parents if cells[index].stage == "attack"), {})

    def judged(self, row: Row) -> list[Line]:
        """What the row's line for each metric says of it; empty if there are no scores."""
        verify = row.cells.get("verify", -1)
        if self.result(verify) is None:
            return []
        defense, alpha = self.defense(verify)
        scores = own_scores(defense, self.result(verify))
        others = {i: found for i in row.negatives if i != verify and (found := self.result(i)) is not None}
        negatives = negatives_of(
            defense, {str(i): (self._suspect_of(i), found) for i, found in others.items()}, about=self._about(row)
        )
        suspect = self.result(row.cells["attack"]) or {}
        judged = judgement(defense, scores, negatives, alpha, suspect)
        lines = []
        for name, found in metric_rows(defense, scores, judged).items():
            kept = {key: found[key] for key in ("direction", "threshold", "normalised", "verdict", "reason")}
            if judged.vote is not None:
                kept |= {"verdict": judged.vote.label, "reason": judged.vote.reason}
            named = {"metric": f"{defense.name}/{name}", "score": found["value"], "negatives": found["negatives"]}
            lines.append(named | kept)
        left_out = (self.result(verify) or {}).get("left_out", {})
        return lines + [{"metric": name, "reason": f"left out: {why}"} for name, why in left_out.items()]


def _flat(values: Mapping[str, Any]) -> Line:
    """With intervals as two columns."""
    line: Line = {}
    for name, value in values.items():
        if name.endswith("_interval"):
            line |= {name.replace("_interval", side): end for side, end in zip(("_low", "_high"), value, strict=True)}
        else:
            line[name] = value
    return line


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
