"""The engines by name."""

from rnet.engines.config import EngineConfig
from rnet.registry import Registry

ENGINES = Registry(
    "engine",
    EngineConfig,
    {
        "auto": (EngineConfig, "rnet.engines.choice:resolve_engine"),
        "plain": (EngineConfig, "rnet.engines.plain:PlainEngine"),
        "ddp": (EngineConfig, "rnet.engines.ddp:DDPEngine"),
        "deepspeed": (EngineConfig, "rnet.engines.deepspeed:DeepSpeedEngine"),
    },
    kind="rnet.engines.base:Engine",
)
