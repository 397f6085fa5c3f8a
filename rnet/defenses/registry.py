"""The defences by name."""

from rnet.defenses.config import (
    AKHConfig,
    DatasetInferenceConfig,
    DeepJudgeConfig,
    IPGuardConfig,
    ModelDiffConfig,
    RandomQueriesConfig,
    SACConfig,
    ZestConfig,
)
from rnet.registry import Registry

DEFENSES = Registry(
    "defense",
    {
        "ipguard": (IPGuardConfig, "rnet.defenses.ipguard:IPGuard"),
        "modeldiff": (ModelDiffConfig, "rnet.defenses.modeldiff:ModelDiff"),
        "zest": (ZestConfig, "rnet.defenses.zest:Zest"),
        "deepjudge": (DeepJudgeConfig, "rnet.defenses.deepjudge:DeepJudge"),
        "sac": (SACConfig, "rnet.defenses.sac:SAC"),
        "akh": (AKHConfig, "rnet.defenses.akh:AKH"),
        "dataset_inference": (DatasetInferenceConfig, "rnet.defenses.dataset_inference:DatasetInference"),
        "random": (RandomQueriesConfig, "rnet.defenses.random_queries:RandomQueries"),
    },
)
