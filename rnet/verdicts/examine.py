"""From suspects to verdicts: every suspect through every defence, judged against independently trained negatives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rnet.config.run import RunConfig
from rnet.defenses.base import Defense, Metric
from rnet.defenses.registry import DEFENSES
from rnet.defenses.zest.defense import normalise
from rnet.errors import UserError
from rnet.parallel.collectives import rank
from rnet.stages.graph import document, negative_configs
from rnet.stages.stages import attack, fingerprint, verify
from rnet.stages.stages import check as check_stage
from rnet.stages.store import Store
from rnet.storage.files import write_atomic
from rnet.verdicts.calibration import deepjudge_verdict, leave_one_out, prediction_bound, realised_fpr
from rnet.verdicts.calibration import verdict as judge
from rnet.verdicts.roc import separation

Row = dict[str, Any]


def examine(configs: Sequence[RunConfig], store: Store) -> list[Row]:
    """One row per configuration (a suspect and a defence), in order; missing stages are computed.

    A row: suspect (its name), attack, defense, attack_id, verify_id, accuracy, victim_accuracy, drop, agreement
    (shares), seconds (spent on making the suspect), derived (the truth), metrics {defense/metric: {value, direction,
    low, high, access, verdict, threshold, reason}}, verdict and reason. A row takes the verdict of its defence's first
    metric; DeepJudge's is its own vote. Where several defences are asked and one refuses a suspect, its row says why.
    """
    check(configs, store)
    suspects = [_suspect(config, store) for config in configs]
    rows = []
    refusals: dict[str, UserError] = {}  # a fingerprint that cannot be made is not tried again for every suspect
    for config, suspect in zip(configs, suspects, strict=True):
        try:
            _ensure_fingerprint(config, store, refusals)
            rows.append({**suspect, **_tested(config, store)})
        except UserError as error:
            if len(configs) == 1:
                raise
            refused = {"defense": config.defense.name, "metrics": {}, "verdict": "undecided", "reason": str(error)}
            rows.append({**suspect, **refused})
    return rows


def check(configs: Sequence[RunConfig], store: Store) -> None:
    """Raises UserError for the first configuration that cannot work, before anything is computed."""
    seen: set[str] = set()
    for config in configs:
        check_stage("verify", config, store, seen)


def _suspect(config: RunConfig, store: Store) -> Row:
    folder = attack(config, store)
    result = folder.result() or {}
    return {
        "suspect": suspect_name(config),
        "attack": config.attack.name,
        "attack_id": folder.id,
        **{key: result[key] for key in ("accuracy", "victim_accuracy", "drop", "agreement", "derived")},
        "seconds": folder.status().get("seconds", 0.0),
    }


def suspect_name(config: RunConfig) -> str:
    """How tables call a suspect: its attack's name, with the attack's seed where that is not the run's."""
    seed = config.attack.seed
    return config.attack.name if seed in (None, config.seed) else f"{config.attack.name}-{seed}"


def separations(rows: Sequence[Row], configs: Sequence[RunConfig], store: Store) -> list[Row]:
    """How well each metric separates each attack's suspects from the negatives, where there are two of both.

    One entry per attack and metric: attack, metric, and the fields of Separation. rows: what examine returned.
    """
    found = []
    groups: dict[tuple[str, str], tuple[RunConfig, list[Row]]] = {}
    for config, row in zip(configs, rows, strict=True):
        if row["derived"] and config.negatives >= 2:
            groups.setdefault((row["attack"], config.defense.name), (config, []))[1].append(row)
    for (attack_name, defense_name), (config, members) in groups.items():
        negatives = list(_negative_scores(config, store).values()) if any(row["metrics"] for row in members) else []
        for metric in DEFENSES.build(config.defense).metrics:
            name = f"{defense_name}/{metric.name}"
            positive = [row["metrics"][name]["value"] for row in members if name in row["metrics"]]
            negative = [scores[name] for scores in negatives if name in scores]
            if len(positive) >= 2 and len(negative) >= 2:
                values = separation(positive, negative, metric.direction)
                found.append({"attack": attack_name, "metric": name, **dataclasses.asdict(values)})
    return found


def _ensure_fingerprint(config: RunConfig, store: Store, refusals: dict[str, UserError]) -> None:
    name = store.folder(document("fingerprint", config)).id
    if name in refusals:
        raise refusals[name]
    try:
        fingerprint(config, store)
    except UserError as error:
        refusals[name] = error
        raise


def _tested(config: RunConfig, store: Store) -> Row:
    """The defence's part of a row: scores, thresholds, verdicts."""
    defense: Defense = DEFENSES.build(config.defense)
    folder = verify(config, store)
    scores = (folder.result() or {})["scores"]
    negatives = list(_negative_scores(config, store).values())
    judged = judge_scores(defense.name, defense.metrics, scores, negatives, config.false_positive_rate)
    return {"defense": defense.name, "verify_id": folder.id, **judged}


def judge_scores(
    defense: str,
    metrics: Sequence[Metric],
    scores: Mapping[str, float],
    negatives: Sequence[Mapping[str, float]],
    false_positive_rate: float,
) -> Row:
    """{metrics, verdict, reason}: a suspect's scores, named defense/metric, judged against those of the negatives.

    The verdict is that of the first metric; DeepJudge's is its own vote.
    """
    judged = {}
    for metric in metrics:
        name = f"{defense}/{metric.name}"
        if name in scores:
            found = [negative[name] for negative in negatives]
            judged[name] = _judged(metric, scores[name], found, false_positive_rate)
            if defense == "zest" and len(found) >= 5:
                judged[name]["normalised"] = normalise(scores[name], found)
    verdict = next(iter(judged.values()))
    if defense == "deepjudge" and len(negatives) >= 2:
        own = [{key.split("/")[1]: value for key, value in found.items()} for found in [scores, *negatives]]
        vote = deepjudge_verdict(own[0], own[1:], metrics)
        verdict = {"verdict": vote.label, "reason": vote.reason}
    return {"metrics": judged, "verdict": verdict["verdict"], "reason": verdict["reason"]}


def _negative_scores(config: RunConfig, store: Store) -> dict[str, dict[str, float]]:
    """Scores of the run's negatives by suspect id, without the suspect itself should it be one of them.

    What they are and the thresholds that all of them give is kept beside the fingerprint, in calibration.json.
    """
    found = {}
    for negative in negative_configs(config):
        suspect_id = store.folder(document("attack", negative)).id
        found[suspect_id] = (verify(negative, store).result() or {})["scores"]
    if len(found) >= 2:
        _keep_calibration(config, store, found)
    found.pop(store.folder(document("attack", config)).id, None)
    return found


def _keep_calibration(config: RunConfig, store: Store, negatives: dict[str, dict[str, float]]) -> None:
    defense: Defense = DEFENSES.build(config.defense)
    alpha = config.false_positive_rate
    thresholds = {}
    for metric in defense.metrics:
        name = f"{defense.name}/{metric.name}"
        scores = [found[name] for found in negatives.values() if name in found]
        if len(scores) >= 2:
            thresholds[name] = {
                "threshold": prediction_bound(scores, metric, alpha),
                "leave_one_out_false_positive_rate": realised_fpr(leave_one_out(scores, metric, alpha)),
            }
    kept = {"false_positive_rate": alpha, "negatives": negatives, "metrics": thresholds}
    data = (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode()
    path = fingerprint(config, store).path / "calibration.json"
    if rank() == 0 and not (path.exists() and path.read_bytes() == data):
        write_atomic(path, data)


def _judged(metric: Metric, value: float, negatives: list[float], false_positive_rate: float) -> dict[str, Any]:
    verdict = judge(value, negatives, metric, false_positive_rate)
    return {
        "value": value,
        "direction": metric.direction,
        "low": metric.low,
        "high": metric.high,
        "access": metric.access,
        "verdict": verdict.label,
        "threshold": verdict.threshold,
        "reason": verdict.reason,
    }
