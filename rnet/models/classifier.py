"""Classifier: an architecture that takes pixels in [0, 1], because it normalises (and resizes) inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnet.errors import UserError
from rnet.models.mismatch import remedy

_NAMES_SHOWN = 4


class Classifier(nn.Module):
    """backbone((x - mean) / std): pixels (B, C, H, W) in [0, 1] -> logits (B, K).

    mean_C, std_C: per channel, over [0, 1] pixels; buffers that are not part of the state, so that exported weights are
    the backbone's own. input_size: images are first resized to this many pixels a side (bilinear, no antialiasing, the
    identity for images of that size already); None takes them as they are. Gray images are repeated where mean_C and
    std_C are for more channels. architecture: the name shown in messages. cut_layers: where it may be cut, from input
    to output. about: what it was built from, which is written beside its weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        mean_C: Sequence[float],
        std_C: Sequence[float],
        *,
        input_size: int | None = None,
        architecture: str | None = None,
        cut_layers: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(mean_C) != len(std_C):
            raise UserError(f"mean_C has {len(mean_C)} channels but std_C has {len(std_C)}; give one value per channel")
        if min(std_C) <= 0:
            raise UserError(f"std_C={tuple(std_C)} must be positive in every channel")
        if input_size is not None and input_size < 1:
            raise UserError(f"model.input_size={input_size} must be at least 1, or null to keep the images' size")
        self.backbone = backbone
        self.input_size = input_size
        self.architecture = architecture or type(backbone).__name__
        self.cut_layers = tuple(cut_layers)
        self.about = dict(about or {})
        for name, values_C in (("mean", mean_C), ("std", std_C)):
            values_1C11 = torch.tensor(list(values_C), dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, values_1C11, persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            x_BCHW = F.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False, antialias=False)
        return self.backbone((x_BCHW - self.mean) / self.std)

    @property
    def cut_layer(self) -> str | None:
        """Where attacks and white-box defences cut it unless told otherwise: the second of the usual five."""
        return self.cut_layers[min(1, len(self.cut_layers) - 1)] if self.cut_layers else None

    def layer_names(self) -> list[str]:
        """Names of every submodule of the backbone, in order: what a user may name as a cut layer."""
        return [name for name, _ in self.backbone.named_modules() if name]

    def export_state(self) -> dict[str, Tensor]:
        """The backbone's state, under the architecture's own names: what model.safetensors holds."""
        return dict(self.backbone.state_dict())

    def load_exported(self, state: Mapping[str, Tensor]) -> None:
        """Loads weights under the architecture's own names; all of them must be there and fit, else UserError."""
        own = self.backbone.state_dict()
        problems = [
            _listing("missing", [name for name in own if name not in state]),
            _listing("unexpected", [name for name in state if name not in own]),
            _listing(
                "of another shape",
                [
                    f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
                    for name, value in own.items()
                    if name in state and state[name].shape != value.shape
                ],
            ),
        ]
        if any(problems):
            what = "; ".join(filter(None, problems))
            raise UserError(f"the weights do not fit {self.architecture}: {what}. {remedy(own, state)}")
        self.backbone.load_state_dict(state)


def _listing(what: str, names: list[str]) -> str:
    """'missing a, b, c, d and 5 more', or nothing."""
    if not names:
        return ""
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{what} {', '.join(names[:_NAMES_SHOWN])}{rest}"
