"""From what rnet.verdicts says of a suspect to the records that tables are made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnet.attacks.registry import ATTACKS
from rnet.defenses.base import Defense
from rnet.report.records import Axes, NegativeModel, Score, Threshold, is_seed, stage_of

Row = Mapping[str, Any]


def scores_of(metrics: Mapping[str, Row]) -> list[Score]:
    """metrics: rnet.verdicts.judging.metric_rows, named defence/metric."""
    names = (
        "value",
        "direction",
        "low",
        "high",
        "verdict",
        "reason",
        "threshold",
        "no_threshold",
        "normalised",
        "access",
    )
    return [Score(name=name, **{key: found[key] for key in names}) for name, found in metrics.items()]


def thresholds_of(
    axes: Axes, defense: Defense, calibration: Mapping[str, Row], rate: float, negatives: Row
) -> list[Threshold]:
    """calibration, negatives: what rnet.verdicts.judging's calibration_rows and negatives_row say."""
    said = [negatives[key] for key in ("why_left_out", "warning") if negatives[key]]
    directions = {metric.name: metric.direction for metric in defense.metrics_of(calibration)}
    return [
        Threshold(
            axes=axes, metric=f"{defense.name}/{name}", direction=directions[name], rule=found["rule"] or "none",
            scale=found["scale"], n=found["negatives"], threshold=found["threshold"],
            reason=found["no_threshold"] or "", false_positive_rate=rate, leave_one_out=found["leave_one_out_fpr"],
            warning="; ".join(said),
        )
        for name, found in calibration.items()
    ]  # fmt: skip


def negative_model(
    axes: Axes, ids: tuple[str, str], attack: Row, results: tuple[Row | None, Row | None], *, state: str, left_out: str
) -> NegativeModel:
    """ids: of its attack and verify stages, as are the results, None while unfinished. attack: its configuration."""
    suspect, tested = results
    said = (suspect or {}).get("independent", {})
    return NegativeModel(
        axes=axes, suspect_id=ids[0], test_id=ids[1], seed=attack["seed"], kind=said.get("kind", "seeds"),
        accuracy=(suspect or {}).get("accuracy"), agreement=(suspect or {}).get("agreement"),
        scores=(tested or {}).get("scores", {}), state=state, left_out=left_out,
    )  # fmt: skip


def is_baseline(kind: str) -> bool:
    """Whether ratios are to the attack of that name."""
    return bool(getattr(ATTACKS.config_class(kind), "baseline", False))


def defender_axes(axes: Axes) -> dict[str, Any]:
    """The axes of the victim and of the defence, with their seeds: what the negatives do not share with other rows."""
    return {axis: value for axis, value in axes.items() if stage_of(axis) in ("train", "fingerprint")}


def typed_axes(axes: Mapping[str, str]) -> dict[str, Any]:
    """Axes with whole numbers as numbers."""
    return {axis: int(value) if is_seed(axis) or value.isdecimal() else value for axis, value in axes.items()}
