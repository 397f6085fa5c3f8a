"""rnet: does a proof of model ownership survive an attacker who tries to remove it?

    config = rnet.load_config(["dataset=digits", "attack=finetune", "defense=ipguard", "negatives=3"])
    rows = rnet.examine([config], rnet.Store("runs"))          # trains, attacks, fingerprints and judges

Everything named here is imported when it is first used, so that `import rnet` is quick and brings no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rnet.api import Judged, curves, dataset_of, judge, make_attack, make_defense, watch
    from rnet.attacks.base import Attack, AttackContext, Suspect
    from rnet.attacks.config import AttackConfig, SubstituteConfig
    from rnet.attacks.substitutes import SubstituteAttack
    from rnet.config.component import ComponentConfig
    from rnet.config.run import RunConfig, load_config
    from rnet.data.config import DatasetConfig
    from rnet.data.images import Dataset, RawImages, TensorSource
    from rnet.data.loading import load_dataset
    from rnet.defenses.base import Defense, Fingerprint
    from rnet.defenses.metric import Metric
    from rnet.defenses.negatives import Negatives
    from rnet.engines.base import Engine
    from rnet.engines.config import EngineConfig
    from rnet.engines.plain import PlainEngine
    from rnet.errors import UserError
    from rnet.models.classifier import Classifier
    from rnet.models.config import ModelConfig
    from rnet.stages.models import load_model
    from rnet.stages.stages import attack, fingerprint, train, verify
    from rnet.stages.store import Store
    from rnet.verdicts.examine import examine

_HOMES = {
    "rnet.api": ("Judged", "curves", "dataset_of", "judge", "make_attack", "make_defense", "watch"),
    "rnet.attacks.base": ("Attack", "AttackContext", "Suspect"),
    "rnet.attacks.config": ("AttackConfig", "SubstituteConfig"),
    "rnet.attacks.substitutes": ("SubstituteAttack",),
    "rnet.config.component": ("ComponentConfig",),
    "rnet.config.run": ("RunConfig", "load_config"),
    "rnet.data.config": ("DatasetConfig",),
    "rnet.data.images": ("Dataset", "RawImages", "TensorSource"),
    "rnet.data.loading": ("load_dataset",),
    "rnet.defenses.base": ("Defense", "Fingerprint"),
    "rnet.defenses.metric": ("Metric",),
    "rnet.defenses.negatives": ("Negatives",),
    "rnet.engines.base": ("Engine",),
    "rnet.engines.config": ("EngineConfig",),
    "rnet.engines.plain": ("PlainEngine",),
    "rnet.errors": ("UserError",),
    "rnet.models.classifier": ("Classifier",),
    "rnet.models.config": ("ModelConfig",),
    "rnet.stages.models": ("load_model",),
    "rnet.stages.stages": ("attack", "fingerprint", "train", "verify"),
    "rnet.stages.store": ("Store",),
    "rnet.verdicts.examine": ("examine",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'rnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
