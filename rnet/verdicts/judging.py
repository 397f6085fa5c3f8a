"""From stored scores to what tables say of them: the same for `rnet verify` and for `rnet sweep report`.

negatives = negatives_of(defense, {id: (attack's result, verify's result), ...}, about=metadata)
judged = judgement(defense, scores, negatives, 0.05, attack's result)
metric_rows(defense, scores, judged), calibration_rows(defense, negatives, 0.05), negatives_row(negatives)
combined_row([scored(defense, scores, negatives), ...], 0.05, attack's result)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from rnet.defenses.base import Defense, Judgement
from rnet.defenses.calibration import Calibration, Verdict, calibrate, leave_one_out, realised_fpr
from rnet.defenses.negatives import Negatives, Scores
from rnet.verdicts.combined import Combined, Scored, combine

Row = dict[str, Any]
Result = Mapping[str, Any]
"""What a stage's result.json holds."""


def own_scores(defense: Defense, result: Result | None) -> dict[str, float]:
    """The scores in a verify stage's result, by the defence's own names of its metrics."""
    scores = (result or {}).get("scores", {})
    return {name.removeprefix(f"{defense.name}/"): value for name, value in scores.items()}


def negatives_of(
    defense: Defense,
    found: Mapping[str, tuple[Result, Result]],
    *,
    about: Mapping[str, Any],
    pairs: Sequence[Scores] = (),
) -> Negatives:
    """The negatives of one fingerprint from their stages' results, by id: (of the attack stage, of the verify stage).

    about: the fingerprint's metadata, as its stage's result has them; chance is 1 / num_classes, or the share of the
    largest class where results say it. pairs: what rnet.stages.pairs.pair_scores gives of the verify folders
    (StageFolder(path, {}) will do), in the order of itertools.combinations of the ids.
    """
    suspects = {name: suspect for name, (suspect, _) in found.items()}
    victim = next((s["victim_accuracy"] for s in suspects.values() if s.get("victim_accuracy") is not None), None)
    guess = 1 / about["num_classes"] if "num_classes" in about else 0.0
    return Negatives(
        scores={name: own_scores(defense, result) for name, (_, result) in found.items()},
        accuracies={name: s["accuracy"] for name, s in suspects.items() if s.get("accuracy") is not None},
        kinds={name: s["independent"]["kind"] for name, s in suspects.items() if "independent" in s},
        pairs=dict(zip(combinations(found, 2), pairs, strict=bool(pairs))),
        victim_accuracy=victim,
        caution=_caution(defense, suspects),
        about=about,
        chance=max([guess, *(s["chance"] for s in suspects.values() if s.get("chance") is not None)]),
    )


def _caution(defense: Defense, suspects: Mapping[str, Result]) -> str | None:
    """Where the defence asks for negatives that never saw the victim's images, and some did."""
    if getattr(defense.config, "negative_kind", "seeds") != "disjoint":
        return None
    portions = [s.get("independent", {}).get("portion", "all") for s in suspects.values()]
    if not (saw := sum(portion != "disjoint" for portion in portions)):
        return None
    return (
        f"{saw} of {len(portions)} negatives were trained on the victim's own images, which {defense.name} is right to "
        "recognise (negative_kinds=[disjoint] trains others)"
    )


def judgement(
    defense: Defense, scores: Scores, negatives: Negatives, false_positive_rate: float, suspect: Result
) -> Judgement:
    """What the defence says of a suspect, whose attack stage's result is given; undecided if its classes are others.

    The negatives have the victim's classes, and distances depend on how many there are: with six of ten classes ZEST's
    are half as large for an innocent model, too.
    """
    judged = defense.judge(scores, negatives, false_positive_rate)
    if "not_measured" not in suspect:
        return judged
    return Judgement(metrics=dict.fromkeys(judged.metrics, _of_other_classes(suspect)))


def _of_other_classes(suspect: Result) -> Verdict:
    why = f"{suspect['not_measured']} as the negatives have, so their scores are no yardstick for its own"
    return Verdict(label="undecided", threshold=None, reason=why)


def metric_rows(defense: Defense, scores: Scores, judged: Judgement) -> dict[str, Row]:
    """What tables show of each metric that was scored: its value, what it means, and its own verdict."""
    return {
        metric.name: {
            "value": scores[metric.name],
            "direction": metric.direction,
            "low": metric.low,
            "high": metric.high,
            "access": defense.access(metric),
            "normalised": judged.metrics[metric.name].normalised,
            **_verdict_row(judged.metrics[metric.name]),
        }
        for metric in defense.metrics_of(judged.metrics)
    }


def named(defense: Defense, by_metric: Mapping[str, Row]) -> dict[str, Row]:
    """Rows of metrics under their full names, defence/metric."""
    return {f"{defense.name}/{name}": found for name, found in by_metric.items()}


def _verdict_row(verdict: Verdict) -> Row:
    """verdict, reason, threshold, no_threshold (why there is none), and what the threshold rests on."""
    by = verdict.calibration
    return {
        "verdict": verdict.label,
        "reason": verdict.reason,
        "threshold": verdict.threshold,
        "no_threshold": None if verdict.threshold is not None else (by.why_none if by else None) or verdict.reason,
        "rule": by.rule if by else None,
        "scale": by.scale if by else None,
        "negatives": by.negatives if by else None,
        "promise": by.promise if by else None,
    }


def calibration_rows(defense: Defense, negatives: Negatives, false_positive_rate: float) -> dict[str, Row]:
    """By metric: negatives (how many count), rule, scale, threshold, no_threshold, leave_one_out_fpr, promise.

    leave_one_out_fpr: the share of negatives that the others would call derived; None for fewer than three.
    """
    found = {}
    names = dict.fromkeys(name for scores in negatives.scores.values() for name in scores)
    for metric in defense.resolved(names, negatives.about):
        scores = negatives.of_metric(metric.name)
        by = calibrate(scores, metric, false_positive_rate)
        held_out = [score for score in scores if math.isfinite(score)]
        rate = realised_fpr(leave_one_out(held_out, metric, false_positive_rate)) if by.negatives > 2 else None
        found[metric.name] = _calibration_row(by, rate)
    return found


def _calibration_row(by: Calibration, rate: float | None) -> Row:
    return {
        "negatives": by.negatives, "rule": by.rule, "scale": by.scale, "threshold": by.threshold,
        "no_threshold": by.why_none, "leave_one_out_fpr": rate, "promise": by.promise,
    }  # fmt: skip


def negatives_row(negatives: Negatives) -> Row:
    """counted and left_out (numbers), unfit (names of those left out), why_left_out, warning (sentences or None), kinds
    (how many of each)."""
    fit = negatives.fit.scores
    kinds = [negatives.kinds[name] for name in fit if name in negatives.kinds]
    return {
        "counted": len(fit), "left_out": len(negatives.unfit), "unfit": list(negatives.unfit),
        "why_left_out": negatives.why_left_out,
        "warning": negatives.warning, "kinds": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }  # fmt: skip


def scored(defense: Defense, scores: Scores, negatives: Negatives) -> Scored:
    """What `combined_row` takes of one defence."""
    metrics = defense.resolved(scores, negatives.about)
    return Scored(defense=defense.name, metrics=metrics, scores=scores, negatives=negatives)


def combined_row(tests: Sequence[Scored], false_positive_rate: float, suspect: Result) -> Row:
    """The verdict over all defences that a suspect was tested with: verdict, reason, score, threshold, no_threshold,
    rule, scale, negatives, promise, leave_one_out_fpr, metrics (what was combined), left_out {defence: reason}.
    """
    found: Combined = combine(tests, false_positive_rate)
    if "not_measured" in suspect:
        found = replace(found, verdict=_of_other_classes(suspect), score=None)
    return {
        **_verdict_row(found.verdict), "score": found.score, "leave_one_out_fpr": found.leave_one_out_fpr,
        "metrics": list(found.metrics), "left_out": dict(found.left_out),
    }  # fmt: skip
