"""Which architecture. No torch here, as in every configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rnet.config.component import ComponentConfig
from rnet.errors import UserError

_LARGEST_STD = 2.0
"""Of pixels in [0, 1] none is above 0.5; dividing by 1 or 2 happens, by 58 only where pixels are taken for 0..255."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ComponentConfig):
    """An architecture and how it is fitted to images."""

    name: str = "resnet8"
    """resnet8, resnet14, resnet20, any classifier of torchvision, or any of timm ("timm/resnet50" says whose); or your
    own, package.module:Name, called with num_classes and in_channels, and with config if it asks for that."""
    source: str = "auto"
    """Where a name without colon is looked up: rnet, torchvision, timm, or auto: one after the other."""
    stem: str = "auto"
    """small (first convolution with stride 1), imagenet (as published), or auto: small for images up to 64 pixels, and
    for imported weights as published, unless their shapes fit the small one alone."""
    width: int = 16
    """Channels of the first stage of resnet8, resnet14 and resnet20."""
    patch_size: int | None = None
    """Patch size of timm's vision transformers; null keeps the published one."""
    input_size: int | None = None
    """Images are resized to this many pixels a side inside the model; null feeds them as they are."""
    cut_layers: list[str] = field(default_factory=list)
    """The layers to cut at, from input to output; empty for the usual five of a known family."""
    weights: str | None = field(default=None, metadata={"file": True})
    """File of trained weights to import instead of training: safetensors, or what torch.save wrote."""
    weights_key: str | None = field(default=None, metadata={"hashed_if_set": True})
    """Which set of weights, where the file holds several, e.g. model_ema."""
    classes: str | None = field(default=None, metadata={"file": True})
    """File with the names of its classes in their order: JSON ["owl", "heron"], or lines with a name or name,index;
    null takes what is published with its weights, or the data set's. They are kept in the metadata of its weights."""
    mean: list[float] = field(default_factory=list, metadata={"hashed_if_set": True})
    """What is subtracted from pixels in [0, 1], a number per channel; empty for the data set's own mean."""
    std: list[float] = field(default_factory=list, metadata={"hashed_if_set": True})
    """What pixels are then divided by, a number per channel; empty for the data set's own standard deviation."""
    options: list[str] = field(default_factory=list, metadata={"hashed_if_set": True})
    """More arguments of the architecture's constructor as name=value: transform_input=true, act_layer=silu."""
    in_channels: int | None = field(default=None, metadata={"hashed_if_set": True})
    """Colour channels that the network takes; 3 repeats the one of gray images; null for those of the images."""

    def check(self) -> None:
        """Raises UserError for means and standard deviations that are none of pixels in [0, 1]."""
        if bool(self.mean) != bool(self.std):
            given, other = ("mean", "std") if self.mean else ("std", "mean")
            neutral = f"model.{other}={[1.0 if other == 'std' else 0.0] * len(getattr(self, given))}"
            raise UserError(f"model.{given} is set, but model.{other} is not; set both ({neutral} has no effect)")
        if len(self.mean) != len(self.std):
            raise UserError(
                f"model.mean={self.mean} has {len(self.mean)} values but model.std={self.std} has {len(self.std)}; "
                f"give one value per channel in both"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or not all(value > 0 for value in self.std):
            given = f"model.mean={self.mean} and model.std={self.std}"
            raise UserError(f"{given} must be finite numbers, and model.std above 0 in every channel")
        if any(abs(value) > 1 for value in self.mean) or any(value > _LARGEST_STD for value in self.std):
            mean, std = (",".join(f"{value / 255:.6g}" for value in values) for values in (self.mean, self.std))
            raise UserError(
                f"model.mean={self.mean} and model.std={self.std} look like values for pixels of 0..255, and rnet's "
                f"pixels are in [0, 1]; divide both by 255: model.mean=[{mean}] model.std=[{std}]"
            )
