"""From suspects to verdicts: every suspect through every defence, judged against independently trained negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnet.attacks.imported.config import ImportConfig
from rnet.config.run import RunConfig
from rnet.data.files.digest import looked_at_once
from rnet.defenses.base import Defense
from rnet.defenses.registry import DEFENSES
from rnet.errors import UserError
from rnet.parallel.collectives import rank
from rnet.stages.graph import check_settings, document
from rnet.stages.stages import attack, fingerprint, verify
from rnet.stages.stages import check as check_stage
from rnet.stages.store import Store
from rnet.verdicts.combined import Scored
from rnet.verdicts.gathered import Known, document_id, gathered
from rnet.verdicts.judging import (
    calibration_rows,
    combined_row,
    judgement,
    metric_rows,
    named,
    negatives_row,
    own_scores,
    scored,
)

Row = dict[str, Any]
FIDELITY = ("accuracy", "victim_accuracy", "drop", "agreement")


def examine(configs: Sequence[RunConfig], store: Store, attacks: Sequence[str] = ()) -> list[Row]:
    """One row per configuration (a suspect and a defence), in order; missing stages are computed.

    A row: suspect (its name), attack, defense, attack_id, verify_id, accuracy, victim_accuracy, drop, agreement
    (shares, None where the suspect has other classes), seconds (spent on making the suspect), derived (the truth, None
    where nobody knows), metrics {defense/metric: metric_rows}, left_out {defense/metric: reason}, queries (asked of a
    black box; None of others), verdict and reason, which are the defence's vote (voted) or that of its first metric,
    negatives (negatives_row), calibration {defense/metric: calibration_rows}, and combined (combined_row): the verdict
    over all defences in these rows, the same in every row of a suspect.

    attacks: the names by which the user chose the attacks (permute); without them their own (obfuscate).

    Where there are several rows, one that a defence refuses, or a given suspect that cannot be imported or asked, has
    no metrics and says why; alone it raises UserError.
    """
    with looked_at_once(store.root, keep=rank() == 0):  # the rows are of the same images
        return _rows(configs, store, attacks or [config.attack.name for config in configs])


def _rows(configs: Sequence[RunConfig], store: Store, attacks: Sequence[str]) -> list[Row]:
    refusals = check(configs, store)
    if len(configs) == 1 and refusals:
        raise next(iter(refusals.values()))
    suspects: list[Row] = []
    names = suspect_names(configs, attacks)
    for number, config in enumerate(configs):
        try:
            if number in refusals:
                raise refusals[number]
            named = {"suspect": names[number], "attack": attacks[number]}
            suspects.append(named | _suspect(config, store))
        except UserError as error:
            if len(configs) == 1 or not _is_given(config):
                raise
            refusals[number] = error
            suspects.append({"suspect": names[number], "attack": attacks[number], **_unknown(config)})
    rows = []
    tests: dict[int, Scored] = {}
    known: Known = {}
    tried: dict[str, UserError] = {}  # a fingerprint that cannot be made is not tried again for every suspect
    for number, (config, suspect) in enumerate(zip(configs, suspects, strict=True)):
        try:
            if number in refusals:
                raise refusals[number]
            _ensure_fingerprint(config, store, tried)
            found, tests[number] = _tested(config, store, known)
            rows.append({**suspect, **found})
        except UserError as error:
            if len(configs) == 1:
                raise
            rows.append({**suspect, **_refused(config, error)})
    _add_combined(rows, tests, configs, store)
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
        "attack_id": folder.id,
        **{key: result[key] for key in (*FIDELITY, "derived")},
        "seconds": folder.status().get("seconds", 0.0),
    }


def _unknown(config: RunConfig) -> Row:
    """The suspect's part of a row where it could not be made."""
    return {"attack_id": None} | dict.fromkeys(FIDELITY) | {"derived": config.attack.derived, "seconds": 0.0}


def _refused(config: RunConfig, error: UserError) -> Row:
    """The defence's part of a row without scores."""
    nothing: Row = {
        "verify_id": None, "metrics": {}, "left_out": {}, "queries": None, "negatives": None, "calibration": {},
        "combined": None, "voted": False,
    }  # fmt: skip
    return {"defense": config.defense.name, **nothing, "verdict": "undecided", "reason": str(error)}


def suspect_name(config: RunConfig, attack: str) -> str:
    """How tables call a suspect: its attack's name, with the attack's seed where that is not the run's.

    A given one is called by its file's name, or by its function.
    """
    if isinstance(config.attack, ImportConfig):
        return config.attack.function or Path(config.attack.weights or "").name
    seed = config.attack.seed
    return attack if seed in (None, config.seed) else f"{attack}-{seed}"


def suspect_names(configs: Sequence[RunConfig], attacks: Sequence[str] = ()) -> list[str]:
    """suspect_name of each; files of one name in several folders are called folder/name."""
    attacks = attacks or [config.attack.name for config in configs]
    names = [suspect_name(config, attack) for config, attack in zip(configs, attacks, strict=True)]
    files = [Path(config.attack.weights) if _is_given(config) and config.attack.weights else None for config in configs]
    folders: dict[str, set[Path]] = {}
    for file in filter(None, files):
        folders.setdefault(file.name, set()).add(file.parent)
    return [
        f"{file.parent.name}/{name}" if file and len(folders[file.name]) > 1 else name
        for name, file in zip(names, files, strict=True)
    ]


def _ensure_fingerprint(config: RunConfig, store: Store, refusals: dict[str, UserError]) -> None:
    name = store.folder(document("fingerprint", config)).id
    if name in refusals:
        raise refusals[name]
    try:
        fingerprint(config, store)
    except UserError as error:
        refusals[name] = error
        raise


def _tested(config: RunConfig, store: Store, known: Known) -> tuple[Row, Scored]:
    """The defence's part of a row: scores, thresholds, verdicts; and what the combined verdict takes of it."""
    defense: Defense = DEFENSES.build(config.defense)
    folder = verify(config, store)
    scores = own_scores(defense, folder.result())
    alpha = config.false_positive_rate
    everyone = gathered(defense, config, store, known)
    negatives = everyone.without(document_id("attack", config, store))  # no suspect is judged by its own score
    suspect = attack(config, store).result() or {}
    judged = judgement(defense, scores, negatives, alpha, suspect)
    overall, result = judged.overall, folder.result() or {}
    row = {
        "defense": defense.name, "verify_id": folder.id,
        "metrics": named(defense, metric_rows(defense, scores, judged)), "left_out": result.get("left_out", {}),
        "queries": result.get("cost", {}).get("queries"), "verdict": overall.label, "reason": overall.reason,
        "voted": judged.vote is not None,
        "negatives": negatives_row(negatives),
        "calibration": named(defense, calibration_rows(defense, negatives, alpha)),
    }  # fmt: skip
    return row, scored(defense, scores, negatives)


def _add_combined(rows: Sequence[Row], tests: Mapping[int, Scored], configs: Sequence[RunConfig], store: Store) -> None:
    """Every row of a suspect gets the one verdict over all defences that it was tested with."""
    suspects: dict[tuple[str, float], list[int]] = {}
    for number in tests:
        key = (rows[number]["attack_id"], configs[number].false_positive_rate)
        suspects.setdefault(key, []).append(number)
    for (_, alpha), numbers in suspects.items():
        result = attack(configs[numbers[0]], store).result() or {}
        combined = combined_row([tests[number] for number in numbers], alpha, result)
        for number in numbers:
            rows[number]["combined"] = combined
