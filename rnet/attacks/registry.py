"""The attacks by name."""

from rnet.attacks.config import AttackConfig
from rnet.attacks.finetune.config import FineTuneConfig
from rnet.attacks.identity.config import IdentityConfig
from rnet.attacks.imported.config import ImportConfig
from rnet.attacks.independent.config import IndependentConfig
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.registry import Registry

ATTACKS = Registry(
    "attack",
    AttackConfig,
    {
        "import": (ImportConfig, "rnet.attacks.imported.attack:Import"),
        "identity": (IdentityConfig, "rnet.attacks.identity.attack:Identity"),
        "independent": (IndependentConfig, "rnet.attacks.independent.attack:Independent"),
        "finetune": (FineTuneConfig, "rnet.attacks.finetune.attack:FineTune"),
        "removalnet": (RemovalNetConfig, "rnet.attacks.removalnet.attack:RemovalNet"),
    },
    kind="rnet.attacks.base:Attack",
)
