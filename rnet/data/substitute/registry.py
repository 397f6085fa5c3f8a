"""The sources of substitutes by name: the victim's data set, and every other one."""

from rnet.config.component import ComponentConfig
from rnet.data.registry import DATASETS
from rnet.data.substitute.config import OwnConfig, VictimTrainConfig

SUBSTITUTES = DATASETS.with_more(
    "substitute",
    {
        "own": (OwnConfig, "rnet.data.substitute.loading:own_pool"),
        "victim_train": (VictimTrainConfig, "rnet.data.substitute.loading:victim_training"),
    },
    base=ComponentConfig,
)
