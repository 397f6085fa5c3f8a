"""What the configuration of every attack tells the stages. No torch here, as in every configuration."""

from __future__ import annotations


class AttackConfig:
    """Base of every attack's configuration dataclass, which declares as fields what it has of these."""

    name: str
    """The attack's name."""
    seed: int | None = None
    """What its randomness comes from; None, once resolved, if it has none."""
    batch_size: int | None = None
    """Global batch size, which processes share; None if it takes no optimizer steps."""

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        raise NotImplementedError
