"""Which architecture. No torch here, as in every configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from rnet.config.component import ComponentConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ComponentConfig):
    """An architecture and how it is fitted to images."""

    name: str = "resnet8"
    """resnet8, resnet14, resnet20, any classifier of torchvision, or any of timm ("timm/resnet50" says whose); or your
    own, package.module:Name, called with num_classes and in_channels, and with config if it asks for that."""
    source: str = "auto"
    """Where a name without colon is looked up: rnet, torchvision, timm, or auto: one after the other."""
    stem: str = "auto"
    """small (first convolution with stride 1), imagenet (as published), or auto: small for images up to 64 pixels."""
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
