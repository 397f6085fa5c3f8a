"""The models of a picture side by side, and the images that all of them are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rnet.data.pixels import images_at_once
from rnet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """models: by the name above their column, the victim first; in eval mode, on the device of the images. A text in
    place of a model says why it is missing.

    images_BCHW: float pixels in [0, 1], fixed samples; labels_B: their classes; class_names: by class, or empty.
    """

    models: Mapping[str, nn.Module | str]
    images_BCHW: Tensor
    labels_B: Tensor
    class_names: Sequence[str] = ()

    def there(self) -> dict[str, nn.Module]:
        """The models that are not missing."""
        return {name: model for name, model in self.models.items() if isinstance(model, nn.Module)}

    def missing(self) -> dict[str, str]:
        """Why the others are."""
        return {name: why for name, why in self.models.items() if isinstance(why, str)}

    def called(self, label: int) -> str:
        """A class by its name, or its number."""
        return self.class_names[label] if label < len(self.class_names) else str(label)


def first_of_each_class(labels_N: Tensor, count: int) -> Tensor:
    """Indices of fixed samples: the first image of each of the first classes, then those that follow."""
    firsts = [int((labels_N == label).nonzero()[0, 0]) for label in labels_N.unique(sorted=True)[:count]]
    others = [index for index in range(len(labels_N)) if index not in firsts]
    return torch.tensor((firsts + others)[:count], dtype=torch.int64)


def logits(model: nn.Module, x_BCHW: Tensor) -> Tensor:
    """Logits (B, K) on the CPU, without gradients; of 256 small images at once, or fewer large ones."""
    with torch.no_grad():
        parts = x_BCHW.split(images_at_once(x_BCHW.shape[-1]))
        return torch.cat([model(part).float().cpu() for part in parts])


def require_captum() -> None:
    """Raises UserError where captum is not installed."""
    try:
        import captum.attr  # noqa: F401
    except ImportError:
        raise UserError("saliency needs captum, which is not installed; run: pip install 'rnet[pictures]'") from None
