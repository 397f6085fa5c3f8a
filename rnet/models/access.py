"""What a model shows of itself to those who test it: labels, probabilities, logits, or everything inside."""

from __future__ import annotations

from typing import Literal

from torch import nn

Access = Literal["labels", "probabilities", "logits", "white_box"]
LEVELS: tuple[Access, ...] = ("labels", "probabilities", "logits", "white_box")
"""From least to most; whoever sees more sees the less, too."""
NEEDS: dict[Access, str] = {
    "labels": "labels", "probabilities": "probabilities", "logits": "logits",
    "white_box": "weights in the victim's architecture",
}  # fmt: skip
"""The same, for people."""


def access_of(model: nn.Module) -> Access:
    """What a model shows; any module shows everything unless it says less."""
    return getattr(model, "access", "white_box")


def limits_of(model: nn.Module) -> str:
    """Why it shows no more, for people: "shows labels only"."""
    return getattr(model, "limits", "")


def limit_access(model: nn.Module, access: Access, limits: str) -> None:
    """From now on the model counts as one that shows no more than that."""
    model.access, model.limits = access, limits  # type: ignore[assignment]


def suffices(shown: Access, needed: Access) -> bool:
    """Whether a test that needs so much can be made on a model that shows so much."""
    return LEVELS.index(shown) >= LEVELS.index(needed)
