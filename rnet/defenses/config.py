"""What the configuration of every defence of rnet has. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.component import ComponentConfig


@dataclass(frozen=True, kw_only=True)
class DefenseConfig(ComponentConfig):
    """Base of the configurations of defences that have profiles; rnet.config.profiles applies them."""

    profile: str | None = field(default=None, metadata={"execution_only": True})
    """Whose choices are the defaults: those of a file defense_profile/NAME_PROFILE.yaml, which stand in the other
    settings; the name itself is not part of an id. None: rnet's own."""
