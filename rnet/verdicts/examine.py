"""From suspects to verdicts: every suspect through every defence, judged against independently trained negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnet.attacks.imported.config import ImportConfig
from rnet.config.run import RunConfig
from rnet.data.files.digest import looked_at_once
from rnet.defenses.base import Defense, Judgement
from rnet.defenses.calibration import Verdict, leave_one_out, prediction_bound, realised_fpr
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from rnet.parallel.collectives import rank
from rnet.stages.graph import check_settings, document, negative_configs
from rnet.stages.stages import attack, fingerprint, verify
from rnet.stages.stages import check as check_stage
from rnet.stages.store import Store
from rnet.storage.json_files import read_json, write_json
from rnet.verdicts.roc import separations_of

Row = dict[str, Any]
FIDELITY = ("accuracy", "victim_accuracy", "drop", "agreement")
Scores = Mapping[str, float]
"""By metric, as a defence's `verify` returns them."""


def examine(configs: Sequence[RunConfig], store: Store) -> list[Row]:
    """One row per configuration (a suspect and a defence), in order; missing stages are computed.

    A row: suspect (its name), attack, defense, attack_id, verify_id, accuracy, victim_accuracy, drop, agreement
    (shares, None where the suspect has other classes), seconds (spent on making the suspect), derived (the truth, None
    where nobody knows), metrics {defense/metric: {value, direction, low, high, access, verdict, threshold, normalised,
    reason}}, left_out {defense/metric: reason}, queries (asked of a black box; None of others), verdict and reason,
    which are the defence's vote or the verdict of its first metric.

    Where there are several rows, one that a defence refuses, or a given suspect that cannot be imported or asked, has
    no metrics and says why; alone it raises UserError.
    """
    with looked_at_once(store.root, keep=rank() == 0):  # the rows are of the same images
        return _rows(configs, store)


def _rows(configs: Sequence[RunConfig], store: Store) -> list[Row]:
    refusals = check(configs, store)
    if len(configs) == 1 and refusals:
        raise next(iter(refusals.values()))
    suspects: list[Row] = []
    names = suspect_names(configs)
    for number, config in enumerate(configs):
        try:
            if number in refusals:
                raise refusals[number]
            suspects.append({"suspect": names[number], **_suspect(config, store)})
        except UserError as error:
            if len(configs) == 1 or not _is_given(config):
                raise
            refusals[number] = error
            suspects.append({"suspect": names[number], **_unknown(config)})
    rows = []
    tried: dict[str, UserError] = {}  # a fingerprint that cannot be made is not tried again for every suspect
    for number, (config, suspect) in enumerate(zip(configs, suspects, strict=True)):
        try:
            if number in refusals:
                raise refusals[number]
            _ensure_fingerprint(config, store, tried)
            rows.append({**suspect, **_tested(config, store)})
        except UserError as error:
            if len(configs) == 1:
                raise
            rows.append({**suspect, **_refused(config, error)})
    return rows


def check(configs: Sequence[RunConfig], store: Store) -> dict[int, UserError]:
    """Raises UserError for the first configuration that cannot work, before anything is computed.

    Given suspects that cannot be imported do not stop the others: they are returned, by their place in the list.
    """
    seen: set[str] = set()
    refused: dict[int, UserError] = {}
    for number, config in enumerate(configs):
        if not _is_given(config):
            check_stage("verify", config, store, seen)
            continue
        check_settings("verify", config)
        check_stage("fingerprint", config, store, seen)
        try:
            check_stage("attack", config, store, seen)
        except UserError as error:
            refused[number] = error
    return refused


def _is_given(config: RunConfig) -> bool:
    return isinstance(config.attack, ImportConfig)


def _suspect(config: RunConfig, store: Store) -> Row:
    folder = attack(config, store)
    result = folder.result() or {}
    return {
        "attack": config.attack.name,
        "attack_id": folder.id,
        **{key: result[key] for key in (*FIDELITY, "derived")},
        "seconds": folder.status().get("seconds", 0.0),
    }


def _unknown(config: RunConfig) -> Row:
    """The suspect's part of a row where it could not be made."""
    named = {"attack": config.attack.name, "attack_id": None}
    return named | dict.fromkeys(FIDELITY) | {"derived": config.attack.derived, "seconds": 0.0}


def _refused(config: RunConfig, error: UserError) -> Row:
    """The defence's part of a row without scores."""
    nothing: Row = {"verify_id": None, "metrics": {}, "left_out": {}, "queries": None}
    return {"defense": config.defense.name, **nothing, "verdict": "undecided", "reason": str(error)}


def suspect_name(config: RunConfig) -> str:
    """How tables call a suspect: its attack's name, with the attack's seed where that is not the run's.

    A given one is called by its file's name, or by its function.
    """
    if isinstance(config.attack, ImportConfig):
        return config.attack.function or Path(config.attack.weights or "").name
    seed = config.attack.seed
    return config.attack.name if seed in (None, config.seed) else f"{config.attack.name}-{seed}"


def suspect_names(configs: Sequence[RunConfig]) -> list[str]:
    """suspect_name of each; files of one name in several folders are called folder/name."""
    names = [suspect_name(config) for config in configs]
    files = [Path(config.attack.weights) if _is_given(config) and config.attack.weights else None for config in configs]
    folders: dict[str, set[Path]] = {}
    for file in filter(None, files):
        folders.setdefault(file.name, set()).add(file.parent)
    return [
        f"{file.parent.name}/{name}" if file and len(folders[file.name]) > 1 else name
        for name, file in zip(names, files, strict=True)
    ]


def separations(rows: Sequence[Row], configs: Sequence[RunConfig], store: Store) -> list[Row]:
    """How well each metric separates each attack's suspects from the negatives, where there are two of both.

    One entry per attack and metric: attack, metric, and the fields of Separation. rows: what examine returned. Suspects
    with other classes than the negatives do not count.
    """
    groups: dict[tuple[str, str], list[RunConfig]] = {}
    for config, row in zip(configs, rows, strict=True):
        if row["derived"] and row["metrics"] and row["accuracy"] is not None and config.negatives >= 2:
            groups.setdefault((row["attack"], config.defense.name), []).append(config)
    found = []
    for (attack_name, _), members in groups.items():
        defense: Defense = DEFENSES.build(members[0].defense)
        positives = [_scores(member, store) for member in members]
        negatives = list(_negative_scores(members[0], store).values())
        for name, values in separations_of(defense.metrics, positives, negatives).items():
            found.append({"attack": attack_name, "metric": f"{defense.name}/{name}", **dataclasses.asdict(values)})
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
    scores = own_scores(defense, folder.result())
    negatives = _negative_scores(config, store)
    if len(negatives) >= 2:
        _keep_calibration(defense, config, store, negatives)
    negatives.pop(document_id("attack", config, store), None)  # no suspect is judged by its own score
    suspect = attack(config, store).result() or {}
    judged = judgement(defense, scores, list(negatives.values()), config.false_positive_rate, suspect)
    metrics = {f"{defense.name}/{name}": metric for name, metric in metric_rows(defense, scores, judged).items()}
    overall, result = judged.overall, folder.result() or {}
    return {
        "defense": defense.name, "verify_id": folder.id, "metrics": metrics, "left_out": result.get("left_out", {}),
        "queries": result.get("cost", {}).get("queries"), "verdict": overall.label, "reason": overall.reason,
    }  # fmt: skip


def judgement(
    defense: Defense,
    scores: Scores,
    negatives: Sequence[Scores],
    false_positive_rate: float,
    suspect: Mapping[str, Any],
) -> Judgement:
    """What the defence says of a suspect, whose attack stage's result is given; undecided if its classes are others.

    The negatives have the victim's classes, and distances depend on how many there are: with six of ten classes ZEST's
    are half as large for an innocent model, too.
    """
    judged = defense.judge(scores, negatives, false_positive_rate)
    if "not_measured" not in suspect:
        return judged
    why = f"{suspect['not_measured']} as the negatives have, so their scores are no yardstick for its own"
    verdict = Verdict(label="undecided", threshold=None, reason=why)
    return Judgement(metrics=dict.fromkeys(judged.metrics, verdict))


def metric_rows(defense: Defense, scores: Scores, judged: Judgement) -> dict[str, Row]:
    """What tables show of each metric that was scored: its value, what it means, and its own verdict."""
    return {
        metric.name: {
            "value": scores[metric.name],
            "direction": metric.direction,
            "low": metric.low,
            "high": metric.high,
            "access": defense.access(metric),
            "verdict": judged.metrics[metric.name].label,
            "threshold": judged.metrics[metric.name].threshold,
            "normalised": judged.metrics[metric.name].normalised,
            "reason": judged.metrics[metric.name].reason,
        }
        for metric in defense.metrics
        if metric.name in judged.metrics
    }


def own_scores(defense: Defense, result: Mapping[str, Any] | None) -> dict[str, float]:
    """The scores in a verify stage's result, by the defence's own names of its metrics."""
    scores = (result or {}).get("scores", {})
    return {name.removeprefix(f"{defense.name}/"): value for name, value in scores.items()}


def document_id(stage: str, config: RunConfig, store: Store) -> str:
    """The id of a stage, computed or not."""
    return store.folder(document(stage, config)).id


def _scores(config: RunConfig, store: Store) -> dict[str, float]:
    return own_scores(DEFENSES.build(config.defense), verify(config, store).result())


def _negative_scores(config: RunConfig, store: Store) -> dict[str, dict[str, float]]:
    """Scores of all of the run's negatives by suspect id."""
    return {document_id("attack", negative, store): _scores(negative, store) for negative in negative_configs(config)}


def _keep_calibration(defense: Defense, config: RunConfig, store: Store, negatives: Mapping[str, Scores]) -> None:
    """What the negatives are and the thresholds they give is kept beside the fingerprint, in calibration.json."""
    alpha = config.false_positive_rate
    thresholds = {}
    for metric in defense.metrics:
        scores = [found[metric.name] for found in negatives.values() if metric.name in found]
        if len(scores) >= 2:
            thresholds[f"{defense.name}/{metric.name}"] = {
                "threshold": prediction_bound(scores, metric, alpha),
                "leave_one_out_false_positive_rate": realised_fpr(leave_one_out(scores, metric, alpha)),
            }
    named = {key: {f"{defense.name}/{name}": v for name, v in found.items()} for key, found in negatives.items()}
    kept = {"false_positive_rate": alpha, "negatives": named, "metrics": thresholds}
    path = fingerprint(config, store).path / "calibration.json"
    if rank() == 0 and read_json(path) != kept:
        write_json(path, kept, to_read=True)
