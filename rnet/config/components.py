"""The groups of a configuration, its other keys, and which registry knows the components of a group."""

from __future__ import annotations

from rnet.attacks.registry import ATTACKS
from rnet.data.registry import DATASETS
from rnet.data.substitute.registry import SUBSTITUTES
from rnet.defenses.registry import DEFENSES
from rnet.engines.registry import ENGINES
from rnet.models.registry import MODELS
from rnet.registry import Registry

REGISTRIES: dict[str, Registry] = {
    "dataset": DATASETS,
    "model": MODELS,
    "substitute": SUBSTITUTES,
    "attack": ATTACKS,
    "defense": DEFENSES,
    "engine": ENGINES,
}

GROUPS = ("dataset", "model", "train", "substitute", "attack", "defense", "engine")
"""Keys that choose an option, whose settings are group.key. Recipes of training have no code of their own."""

ALSO_OPTIONS_OF = {"substitute": "dataset"}
"""Groups whose options are also those of another."""

PRESETS = ("train_preset", "attack_preset")
"""Groups of options that refine another group's; the one that fits is chosen unless the user names another."""

TOP_LEVEL = {
    "seed": int,
    "precision": str,
    "negatives": int,
    "negative_kinds": list[str],
    "negative_models": list[str],
    "false_positive_rate": float,
}
"""Keys that are in no group, and their types."""
