"""The attacks by name."""

from rnet.attacks.config import FineTuneConfig, IdentityConfig, IndependentConfig, RemovalNetConfig
from rnet.registry import Registry

ATTACKS = Registry(
    "attack",
    {
        "identity": (IdentityConfig, "rnet.attacks.identity:Identity"),
        "independent": (IndependentConfig, "rnet.attacks.independent:Independent"),
        "finetune": (FineTuneConfig, "rnet.attacks.finetune:FineTune"),
        "removalnet": (RemovalNetConfig, "rnet.attacks.removalnet:RemovalNet"),
    },
)
