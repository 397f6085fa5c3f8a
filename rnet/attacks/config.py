"""What the configuration of every attack tells the stages. No torch here, as in every configuration."""

from __future__ import annotations

from rnet.config.component import ComponentConfig


class AttackConfig(ComponentConfig):
    """Base of every attack's configuration dataclass, which declares as fields what it has of these."""

    seed: int | None = None
    """What its randomness comes from; None takes the run's seed."""
    batch_size: int | None = None
    """Global batch size, which processes share; None if it takes no optimizer steps."""
