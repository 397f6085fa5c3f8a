"""A run's negatives: scored by a defence, and kept beside its fingerprint with the thresholds that they give."""

from __future__ import annotations

from rnet.config.run import RunConfig
from rnet.defenses.base import Defense
from rnet.defenses.negatives import Negatives
from rnet.parallel.collectives import rank
from rnet.stages.graph import document, negative_configs
from rnet.stages.pairs import pair_scores
from rnet.stages.stages import attack, fingerprint, verify
from rnet.stages.store import Store
from rnet.storage.json_files import read_information, write_information
from rnet.verdicts.judging import calibration_rows, named, negatives_of

Known = dict[tuple[str, float, tuple[str, ...]], Negatives]
"""Negatives that were gathered, by fingerprint, false-positive rate and their own ids."""


def document_id(stage: str, config: RunConfig, store: Store) -> str:
    """The id of a stage, computed or not."""
    return store.folder(document(stage, config)).id


def gathered(defense: Defense, config: RunConfig, store: Store, known: Known) -> Negatives:
    """The run's negatives, scored; with what they say kept beside the fingerprint, in calibration.json."""
    found = {document_id("attack", negative, store): negative for negative in negative_configs(config)}
    key = (document_id("fingerprint", config, store), config.false_positive_rate, tuple(found))
    if key not in known:
        folders = {name: verify(negative, store) for name, negative in found.items()}
        results = {
            name: (attack(negative, store).result() or {}, folders[name].result() or {})
            for name, negative in found.items()
        }
        about = (fingerprint(config, store).result() or {}).get("metadata", {})
        pairs = pair_scores(defense, [*folders.values()])
        known[key] = negatives_of(defense, results, about=about, pairs=pairs)
        if found:
            _keep_calibration(defense, config, store, known[key])
    return known[key]


def _keep_calibration(defense: Defense, config: RunConfig, store: Store, negatives: Negatives) -> None:
    """All that is needed to compute the thresholds again, and the thresholds."""
    alpha = config.false_positive_rate
    kept = {
        "false_positive_rate": alpha,
        "victim_accuracy": negatives.victim_accuracy,
        "chance": negatives.chance,
        "negatives": {
            name: {f"{defense.name}/{metric}": score for metric, score in scores.items()}
            for name, scores in negatives.scores.items()
        },
        "accuracies": dict(negatives.accuracies),
        "kinds": dict(negatives.kinds),
        "pairs": [{"between": list(names), "scores": dict(scores)} for names, scores in negatives.pairs.items()],
        "left_out": list(negatives.unfit),
        "resolutions": _resolutions(defense, negatives),
        "metrics": named(defense, calibration_rows(defense, negatives, alpha)),
    }
    path = fingerprint(config, store).path / "calibration.json"
    if rank() == 0 and read_information(path) != kept:
        write_information(path, kept)


def _resolutions(defense: Defense, negatives: Negatives) -> dict[str, float]:
    names = {name for scores in negatives.scores.values() for name in scores}
    return {m.name: m.resolution for m in defense.resolved(names, negatives.about) if m.resolution}
