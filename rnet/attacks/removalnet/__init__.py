"""RemovalNet (Yao et al., IEEE TDSC 2023): the method and nothing else.

attack = RemovalNet(RemovalNetConfig(layer="layer2", iterations=100))
surrogate = attack(victim, images_NCHW)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rnet.attacks.removalnet.config import RemovalNetConfig

if TYPE_CHECKING:
    from rnet.attacks.removalnet.attack import RemovalNet

__all__ = ["RemovalNet", "RemovalNetConfig"]


def __getattr__(name: str) -> Any:
    """The attack is imported when it is asked for: sweeps are planned without torch."""
    if name != "RemovalNet":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rnet.attacks.removalnet.attack import RemovalNet

    return RemovalNet
