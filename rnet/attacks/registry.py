"""The attacks by name."""

from rnet.attacks.adversarial_training.config import AdversarialTrainingConfig
from rnet.attacks.config import AttackConfig
from rnet.attacks.distill.config import DistillConfig
from rnet.attacks.feature_distill.config import FeatureDistillConfig
from rnet.attacks.finetune.config import FineTuneConfig
from rnet.attacks.finetune_labelled.config import FineTuneLabelledConfig
from rnet.attacks.identity.config import IdentityConfig
from rnet.attacks.imported.config import ImportConfig
from rnet.attacks.independent.config import IndependentConfig
from rnet.attacks.knockoff.config import KnockoffConfig
from rnet.attacks.obfuscate.config import ObfuscateConfig
from rnet.attacks.prune.config import PruneConfig
from rnet.attacks.quantise.config import QuantiseConfig
from rnet.attacks.removalnet.config import RemovalNetConfig
from rnet.attacks.rescale_logits.config import RescaleLogitsConfig
from rnet.attacks.retrain.config import RetrainConfig
from rnet.registry import Registry

ATTACKS = Registry(
    "attack",
    AttackConfig,
    {
        "import": (ImportConfig, "rnet.attacks.imported.attack:Import"),
        "identity": (IdentityConfig, "rnet.attacks.identity.attack:Identity"),
        "independent": (IndependentConfig, "rnet.attacks.independent.attack:Independent"),
        "finetune": (FineTuneConfig, "rnet.attacks.finetune.attack:FineTune"),
        "finetune_labelled": (FineTuneLabelledConfig, "rnet.attacks.finetune_labelled.attack:FineTuneLabelled"),
        "retrain": (RetrainConfig, "rnet.attacks.retrain.attack:Retrain"),
        "prune": (PruneConfig, "rnet.attacks.prune.attack:Prune"),
        "adversarial_training": (
            AdversarialTrainingConfig,
            "rnet.attacks.adversarial_training.attack:AdversarialTraining",
        ),
        "distill": (DistillConfig, "rnet.attacks.distill.attack:Distill"),
        "feature_distill": (FeatureDistillConfig, "rnet.attacks.feature_distill.attack:FeatureDistill"),
        "knockoff": (KnockoffConfig, "rnet.attacks.knockoff.attack:Knockoff"),
        "obfuscate": (ObfuscateConfig, "rnet.attacks.obfuscate.attack:Obfuscate"),
        "quantise": (QuantiseConfig, "rnet.attacks.quantise.attack:Quantise"),
        "rescale_logits": (RescaleLogitsConfig, "rnet.attacks.rescale_logits.attack:RescaleLogits"),
        "removalnet": (RemovalNetConfig, "rnet.attacks.removalnet.attack:RemovalNet"),
    },
    kind="rnet.attacks.base:Attack",
)
