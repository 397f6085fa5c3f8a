"""The graph of stages, once: their names, their parents, and the documents whose content is the id.

    train -> attack -------+
       |                   +-> verify
       +-> fingerprint ----+

Whoever runs, plans or lists stages asks this file. No torch here: planning needs no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rnet.attacks.imported.config import ImportConfig
from rnet.attacks.independent.config import HALVES, IndependentConfig
from rnet.config.components import GROUPS
from rnet.config.documents import hashed
from rnet.config.run import RunConfig
from rnet.data.config import DatasetConfig
from rnet.data.files.digest import look_at
from rnet.data.substitute.config import OwnConfig, about_substitutes, as_substitute, check_substitute
from rnet.errors import unknown_name

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage is computed from: its parents, and what it reads of the configuration itself.

    method: part of every id; raised whenever a change of the code changes the stage's results. own: groups and
    top-level keys of RunConfig. parents: the name of each parent in its document -> the parent's stage; built in order.
    """

    method: int
    own: tuple[str, ...]
    parents: Mapping[str, str]


GRAPH: Mapping[str, Stage] = {
    "train": Stage(method=2, own=("dataset", "model", "train", "precision"), parents={}),
    "attack": Stage(method=2, own=("attack", "substitute", "precision"), parents={"victim": "train"}),
    "fingerprint": Stage(method=3, own=("defense", "seed"), parents={"victim": "train"}),
    "verify": Stage(method=3, own=(), parents={"suspect": "attack", "fingerprint": "fingerprint"}),
}
"""Parents stand before their children."""

STAGE_NAMES = tuple(GRAPH)


def named_stages(text: str) -> list[str]:
    """Those of a list such as train,attack. Raises UserError for one that there is not."""
    found = text.split(",")
    for stage in found:
        if stage not in GRAPH:
            raise unknown_name("stage", stage, STAGE_NAMES)
    return found


def lineage(stage: str) -> tuple[str, ...]:
    """The stage and all that it needs, each after its parents."""
    needed = {stage}
    for name in reversed(STAGE_NAMES):
        if name in needed:
            needed.update(GRAPH[name].parents.values())
    return tuple(name for name in STAGE_NAMES if name in needed)


def ingredients(stage: str) -> tuple[str, ...]:
    """The groups and top-level keys of RunConfig that the stage or one of its ancestors reads."""
    return tuple(dict.fromkeys(key for name in lineage(stage) for key in GRAPH[name].own))


def document(stage: str, config: RunConfig, known: Mapping[str, Document] | None = None) -> Document:
    """What a stage is computed from: its own settings, and its parents' documents.

    Of an imported victim or suspect, what its file says is among the settings. known: documents of this configuration
    that were made before, by stage.
    """
    if config.model.weights is not None:
        from rnet.models.origin import as_imported  # imports torch

        config = as_imported(config)
    if "attack" in GRAPH[stage].own and isinstance(config.attack, ImportConfig) and config.attack.weights is not None:
        from rnet.attacks.imported.origin import as_given

        config = as_given(config)
    found: Document = {"stage": stage, "method": GRAPH[stage].method}
    for key in GRAPH[stage].own:
        value = getattr(config, key)
        if key != "substitute":
            plain = isinstance(value, str | int)
            found[key] = value if plain else _dataset(value) if key == "dataset" else hashed(key, value)
        elif takes_substitutes(config):
            found[key] = _substitute(value)
    parents = GRAPH[stage].parents.items()
    return found | {key: known[of] if known and of in known else document(of, config) for key, of in parents}


def _dataset(config: DatasetConfig) -> Document:
    """A data set is named by what its files hold, wherever they are; one without files by its settings alone."""
    settings = hashed("dataset", config)
    look = look_at(config)
    if look is None:
        return settings
    return {**settings, "digest": look.digest, "files_sha256": look.sha256, "folder": None}


def takes_substitutes(config: RunConfig) -> bool:
    """Whether the attack takes its images from elsewhere than the victim's data set reserves them."""
    return bool(config.attack.uses_substitutes) and config.substitute.name != "own"


def _substitute(config: Any) -> Document:
    if not isinstance(config, DatasetConfig):
        return hashed("substitute", config)
    with about_substitutes():
        return _dataset(as_substitute(config))


def check_settings(stage: str, config: RunConfig) -> None:
    """Raises UserError for a setting of the stage, its ancestors or the engine that is out of range; builds nothing."""
    config.engine.check()
    for key in ingredients(stage):
        if key == "substitute":
            with about_substitutes():
                check_substitute(config.substitute)
        elif key in GROUPS:
            getattr(config, key).check()


def negative_configs(config: RunConfig) -> list[RunConfig]:
    """The run's negatives: independently trained models whose seeds no other run shares.

    negative.attack.kind says of which kind each is.
    """
    found = []
    for own in negative_settings(config):
        model = config.negative_models[own["model"]] if "model" in own else None
        attack = IndependentConfig(seed=int(own["seed"]), portion=own.get("portion", "all"), model=model)
        found.append(replace(config, attack=attack, substitute=OwnConfig()))
    return found


def negative_settings(config: RunConfig) -> list[dict[str, str]]:
    """What each of the run's negatives sets of attack.*; the kinds are dealt in turn.

    Where the run names no kinds, they are what the defence's null hypothesis demands.
    """
    kinds = config.negative_kinds or [getattr(config.defense, "negative_kind", "seeds")]
    choices: dict[str, list[dict[str, str]]] = {
        "seeds": [{}],
        "halves": [{"portion": half} for half in HALVES],
        "disjoint": [{"portion": "disjoint"}],
        "architectures": [{"model": name} for name in config.negative_models],
    }
    dealt: Counter[str] = Counter()
    found = []
    for number in range(config.negatives):
        kind = kinds[number % len(kinds)]
        own = choices[kind][dealt[kind] % len(choices[kind])]
        dealt[kind] += 1
        found.append({"seed": str(1000 * (config.seed + 1) + number), **own})
    return found


def hyperparameters(document: Document) -> dict[str, Any]:
    """A stage's settings for a table of many runs: flat, the same names in every stage, without what is not set.

    A component's name stands under its group ({"attack": "finetune", "attack.batch_size": 64, ...}); what the victim
    was made from stands beside it.
    """
    found = hyperparameters(document["victim"]) if "victim" in document else {}
    for group, value in document.items():
        if isinstance(value, dict) and group != "victim":
            found |= _flat(group, value)
        elif group not in ("method", "victim"):
            found[group] = value
    return found


def _flat(place: str, settings: Document) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inside = place if key == "name" else f"{place}.{key}"
        if isinstance(value, dict):
            found |= _flat(inside, value)
        elif value not in (None, []):
            found[inside] = value
    return found
