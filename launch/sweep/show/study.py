"""A sweep as the study that tables are made from: what is finished of a plan, judged, and why the rest is missing.

Rows are judged as `rnet verify` does it, each against its own negatives. Every file is read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.sweep.plan.plan import Plan, Row, done_cells
from launch.sweep.states import StoreState
from rnet.config.documents import run_from_dict
from rnet.config.run import RunConfig
from rnet.defenses.base import Defense
from rnet.defenses.negatives import Negatives
from rnet.defenses.registry import DEFENSES
from rnet.report.judged import (
    defender_axes,
    is_baseline,
    negative_model,
    scores_of,
    thresholds_of,
    typed_axes,
)
from rnet.report.records import NegativeModel, Study, Threshold, Trial
from rnet.stages.pairs import pair_scores
from rnet.stages.store import StageFolder, read_result
from rnet.storage.json_files import read_information
from rnet.verdicts.judging import (
    calibration_rows,
    combined_row,
    judgement,
    metric_rows,
    named,
    negatives_of,
    negatives_row,
    own_scores,
    scored,
)

Result = Mapping[str, Any]


def study_of(plan: Plan, root: Path) -> Study:
    """Every row of the plan as a trial, the negatives and the thresholds."""
    return _Reader(plan, root).study()


class _Reader:
    """What is finished of a plan; files are read, and negatives gathered, once."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan, self._root = plan, root
        self._done = done_cells(plan, root)
        self._states = StoreState(plan, root).cells if len(self._done) < len(plan.cells) else []
        self._results: dict[int, Result] = {}
        self._statuses: dict[int, Result] = {}
        self._defenses: dict[tuple[int, ...], tuple[RunConfig, Defense]] = {}
        self._gathered: dict[tuple[int, ...], Negatives] = {}
        self._combined: dict[tuple[int, float], Mapping[str, Any]] = {}
        self.negatives: dict[tuple[int, ...], list[NegativeModel]] = {}
        self.thresholds: dict[tuple[int, ...], list[Threshold]] = {}

    def study(self) -> Study:
        tests: dict[int, list[Any]] = {}
        for row in self._plan.rows:
            if "verify" in row.cells and row.cells["verify"] in self._done:
                tests.setdefault(row.cells["attack"], []).append(row)
        for attack, rows in tests.items():
            self._combine(attack, rows)
        trials = [self._trial(row) for row in self._plan.rows]
        return Study(
            trials=trials,
            negatives=[one for found in self.negatives.values() for one in found],
            thresholds=[one for found in self.thresholds.values() for one in found],
        )

    def _trial(self, row: Row) -> Trial:
        """A row; one whose sweep ends before its attack has its victim as the suspect."""
        axes = typed_axes(row.values)
        last = row.cells.get("attack", row.cells["train"])
        verify = row.cells.get("verify")
        settings = self._plan.configuration(self._plan.cells[last])["attack"]
        kind = settings["name"]
        state = self._state(row, [*row.cells])
        known: dict[str, Any] = {
            "axes": axes, "kind": kind, "baseline": is_baseline(kind), "settings": settings,
            "victim_id": self._plan.cells[row.cells["train"]].id, "suspect_id": self._plan.cells[last].id,
            "test_id": None if verify is None else self._plan.cells[verify].id,
            "result": self._result(last) or {}, "status": self._status(last),
            "suspect_state": self._state(row, [stage for stage in ("train", "attack") if stage in row.cells]),
            "state": state, "negatives_planned": len(row.negatives),
        }  # fmt: skip
        if verify is None:
            return Trial(**known)
        self._describe(row, axes)
        if state:
            return Trial(**known)
        defense, negatives, alpha = self._against(row)
        scores, suspect = own_scores(defense, self._result(verify)), self._result(last) or {}
        judged = judgement(defense, scores, negatives, alpha, suspect)
        metrics = named(defense, metric_rows(defense, scores, judged))
        return Trial(
            **known, scores=scores_of(metrics), verdict=judged.overall.label, reason=judged.overall.reason,
            votes=judged.vote is not None, combined=self._combined.get((row.cells["attack"], alpha)),
            left_out=(self._result(verify) or {}).get("left_out", {}), negatives=len(negatives.fit.scores),
        )  # fmt: skip

    def _combine(self, attack: int, rows: list[Row]) -> None:
        """The verdict on one suspect over all defences that it was tested with."""
        groups: dict[float, list[Any]] = {}
        for row in {row.cells["verify"]: row for row in rows}.values():
            defense, negatives, alpha = self._against(row)
            scores = own_scores(defense, self._result(row.cells["verify"]))
            groups.setdefault(alpha, []).append(scored(defense, scores, negatives))
        for alpha, tests in groups.items():
            self._combined[attack, alpha] = combined_row(tests, alpha, self._result(attack) or {})

    def _describe(self, row: Row, axes: Mapping[str, Any]) -> None:
        """The negatives of the row and their thresholds, unless other rows have the same."""
        key = (row.cells["fingerprint"], *row.negatives)
        if key in self.negatives or not row.negatives:
            return
        own = defender_axes(axes)
        gathered, (config, defense) = self._gather(row), self._defense(row.cells["verify"])
        why = {str(self._suspect(index)): gathered.why_left_out or "" for index in row.negatives}
        self.negatives[key] = []
        for index in row.negatives:
            attack = self._suspect(index)
            self.negatives[key].append(
                negative_model(
                    own, (self._plan.cells[attack].id, self._plan.cells[index].id),
                    self._plan.configuration(self._plan.cells[attack])["attack"],
                    (self._result(attack), self._result(index)), state=self._first_state([attack, index]),
                    left_out=why[str(attack)] if str(attack) in gathered.unfit else "",
                )
            )  # fmt: skip
        rate = config.false_positive_rate
        self.thresholds[key] = thresholds_of(
            own, defense, calibration_rows(defense, gathered, rate), rate, negatives_row(gathered)
        )

    def _against(self, row: Row) -> tuple[Defense, Negatives, float]:
        """What judges the row: the defence, its negatives without the suspect itself, the false-positive rate."""
        config, defense = self._defense(row.cells["verify"])
        return defense, self._gather(row).without(str(row.cells["attack"])), config.false_positive_rate

    def _gather(self, row: Row) -> Negatives:
        """The finished negatives of a row, by the index of their attack cells."""
        key = (row.cells["fingerprint"], *row.negatives)
        if key not in self._gathered:
            _, defense = self._defense(row.cells["verify"])
            found = {
                str(self._suspect(index)): (self._result(self._suspect(index)) or {}, result)
                for index in row.negatives
                if (result := self._result(index)) is not None
            }
            about = (self._result(row.cells["fingerprint"]) or {}).get("metadata", {})
            folders = [
                StageFolder(self._plan.folder(self._root, self._plan.cells[index]), {})
                for index in row.negatives
                if index in self._done
            ]
            self._gathered[key] = negatives_of(defense, found, about=about, pairs=pair_scores(defense, folders))
        return self._gathered[key]

    def _defense(self, verify: int) -> tuple[RunConfig, Defense]:
        """The defence of a verify cell with its configuration, which is the same for all of equal settings."""
        cell = self._plan.cells[verify]
        whole = {index: self._plan.settings[index] for index in cell.settings}
        key = tuple(index for index, piece in whole.items() if "attack" not in piece)
        if key not in self._defenses:
            config = run_from_dict(self._plan.configuration(cell))
            self._defenses[key] = config, DEFENSES.build(config.defense)
        return self._defenses[key]

    def _suspect(self, verify: int) -> int:
        """The attack cell whose suspect a verify cell tests."""
        return next(index for index in self._plan.cells[verify].parents if self._plan.cells[index].stage == "attack")

    def _result(self, index: int) -> Result | None:
        """The cell's result, None if it is not finished."""
        if index not in self._done:
            return None
        if index not in self._results:
            self._results[index] = read_result(self._folder(index)) or {}
        return self._results[index]

    def _status(self, index: int) -> Result:
        if index not in self._done:
            return {}
        if index not in self._statuses:
            self._statuses[index] = read_information(self._folder(index) / "status.json")
        return self._statuses[index]

    def _folder(self, index: int) -> Path:
        return self._plan.folder(self._root, self._plan.cells[index])

    def _state(self, row: Row, stages: list[str]) -> str:
        return self._first_state([row.cells[stage] for stage in stages])

    def _first_state(self, indices: list[int]) -> str:
        """Why the first cell that is not finished is not: its state and the last line of its error; "" if all are."""
        for index in indices:
            if index not in self._done:
                found = self._states[index]
                error = found.error.strip().splitlines()
                return f"{found.state}: {error[-1]}" if error else found.state
        return ""
