"""The defences by name."""

from rnet.config.component import ComponentConfig
from rnet.defenses.akh.config import AKHConfig
from rnet.defenses.dataset_inference.config import DatasetInferenceConfig
from rnet.defenses.deepjudge.config import DeepJudgeConfig
from rnet.defenses.ipguard.config import IPGuardConfig
from rnet.defenses.modeldiff.config import ModelDiffConfig
from rnet.defenses.random_queries.config import RandomQueriesConfig
from rnet.defenses.sac.config import SACConfig
from rnet.defenses.zest.config import ZestConfig
from rnet.registry import Registry

DEFENSES = Registry(
    "defense",
    ComponentConfig,
    {
        "ipguard": (IPGuardConfig, "rnet.defenses.ipguard.defense:IPGuard"),
        "modeldiff": (ModelDiffConfig, "rnet.defenses.modeldiff.defense:ModelDiff"),
        "zest": (ZestConfig, "rnet.defenses.zest.defense:Zest"),
        "deepjudge": (DeepJudgeConfig, "rnet.defenses.deepjudge.defense:DeepJudge"),
        "sac": (SACConfig, "rnet.defenses.sac.defense:SAC"),
        "akh": (AKHConfig, "rnet.defenses.akh.defense:AKH"),
        "dataset_inference": (DatasetInferenceConfig, "rnet.defenses.dataset_inference.defense:DatasetInference"),
        "random": (RandomQueriesConfig, "rnet.defenses.random_queries.defense:RandomQueries"),
    },
    kind="rnet.defenses.base:Defense",
)
