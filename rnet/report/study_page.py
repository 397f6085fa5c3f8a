"""The page of a study: its verdict, who is recognised, figures, tables, and where all of it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnet.figures.drawing import Drawing
from rnet.report.drawn import cost_figures, curve_figures, only_first_metrics, roc_figures, score_figures
from rnet.report.origin import computed_by, ids_and_seeds, made_by
from rnet.report.page import Page, Section
from rnet.report.records import Study, Trial, key_of, once
from rnet.report.sentence import Judged, matrix, sentence
from rnet.report.table import Table

MOST_VICTIMS = 6
"""Whose figures a page has; of more there are the tables."""
_PICTURES = "Pictures: what the models see"


def page_of(
    study: Study,
    tables: Sequence[Table],
    root: Path,
    *,
    title: str,
    kind: str,
    commands: str,
    more: Sequence[tuple[str, str]] = (),
    lead: str = "",
    pictures: Sequence[Drawing] = (),
    no_pictures: str = "",
) -> Page:
    """root: the store, where the curves are. commands: what computes it again; more: further blocks of that kind.

    pictures: of the models; no_pictures: why there are none, "" where none were asked for.
    """
    judged = matrix(study)
    drawn = _first_victims(study)
    many = "" if drawn is study else f"The first {MOST_VICTIMS} victims; the tables have all."
    few = "Of each defence its first metric; the tables have all. " if only_first_metrics(drawn) else ""
    scores = score_figures(drawn) if judged else []
    first = scores if len(scores) == 1 and not only_first_metrics(drawn) else []
    beside = [one for one in pictures if one.name == "queries"][: len(first)]
    sections = [
        Section(title="Scores and thresholds", about=few + many, figures=scores[len(first) :]),
        Section(title=_PICTURES, about=no_pictures, figures=[one for one in pictures if one not in beside]),
        Section(title="ROC curves", about=few + many, figures=roc_figures(drawn) if judged else ()),
        Section(title="Accuracy against cost", about=many, figures=cost_figures(drawn)),
        Section(title="Curves over training", about=many, figures=curve_figures(drawn, root)),
        Section(title="Tables", tables=tables),
    ]
    return Page(
        title=title, kind=kind, lead=lead, verdict=sentence(study), facts=_facts(study), first=[*first, *beside],
        matrix=_matrix(judged) if judged else None, incomplete=_incomplete(study),
        sections=[one for one in sections if one.figures or one.tables or (one.title == _PICTURES and one.about)],
        reproduce=[
            ("Commands", commands), *more, ("Results computed by", computed_by(study.trials)),
            ("This page made by", made_by()), *ids_and_seeds(study),
        ],
    )  # fmt: skip


def _first_victims(study: Study) -> Study:
    """The study itself, or with the trials of its first victims only, told apart by all but their seeds."""
    keys = list(dict.fromkeys(key_of(one.axes, "train") for one in study.trials))
    if len(keys) <= MOST_VICTIMS:
        return study
    kept = [one for one in study.trials if key_of(one.axes, "train") in keys[:MOST_VICTIMS]]
    return Study(trials=kept, negatives=study.negatives, thresholds=study.thresholds)


def _facts(study: Study) -> list[tuple[str, str]]:
    suspects = once(study.trials, "suspect_id")
    victims = [one.result["victim_accuracy"] for one in once(study.trials, "victim_id") if _accuracy(one) is not None]
    found = []
    for axis, name in (("dataset", "data set"), ("model", "victim"), ("attack", "attacks"), ("defense", "defences")):
        values = list(dict.fromkeys(str(one.axes[axis]) for one in study.trials if axis in one.axes))
        if values:
            found.append((name, ", ".join(values) if len(values) <= 10 else f"{len(values)}"))
    if victims:
        low, high = (f"{100 * end:.1f} %" for end in (min(victims), max(victims)))
        found.append(("victim's test accuracy", low if low == high else f"{low} to {high}"))
    found.append(("suspects", str(len(suspects))))
    negatives = len({one.suspect_id for one in study.negatives})
    return [*found, ("independent models to compare with", str(negatives))] if negatives else found


def _accuracy(trial: Trial) -> Any:
    return trial.result.get("victim_accuracy")


def _incomplete(study: Study) -> list[str]:
    """What is not there, as one sentence for all suspects and one for all negatives."""
    found = []
    for what, states in (
        ("tests", [one.state for one in once(study.trials, "test_id")]),
        ("negatives", [one.state for one in study.negatives]),
    ):
        if gone := [state for state in states if state]:
            reasons = list(dict.fromkeys(gone))
            more = f"; and {len(reasons) - 3} other reasons" if len(reasons) > 3 else ""
            found.append(f"{len(gone)} of {len(states)} {what} are missing ({'; '.join(reasons[:3])}{more})")
    return found


def _matrix(judged: Sequence[Judged]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    defenses = list(dict.fromkeys(name for one in judged for name in one.by_defense))
    defenses.sort(key=lambda name: name == "all together")
    several = len({one.victim for one in judged}) > 1
    rows = []
    for one in judged:
        name = " ".join([*(str(value) for _, value in one.victim), one.attack]) if several else one.attack
        accuracies = [trial.result["accuracy"] for trial in one.trials if trial.result.get("accuracy") is not None]
        mean = f"{100 * sum(accuracies) / len(accuracies):.1f}" if accuracies else ""
        said = [one.by_defense.get(defense) for defense in defenses]
        rows.append([(name, ""), (mean, "n"), *((v.text, v.label) if v else ("", "") for v in said)])
    return ["suspect", "accuracy (%)", *defenses], rows
