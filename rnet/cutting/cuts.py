"""The layers at which each family of architectures is usually cut: five, from input to output, for most."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn


def usual_cut_layers(backbone: nn.Module) -> list[str]:
    """Submodule names from input to output; empty for an architecture of no known family.

    ResNet: stem with its pooling, then the stages. VGG: the five blocks, each with its pooling. DenseNet: stem, the
    three transitions, the last norm. Inception-v3 and MobileNetV2: five depths. Vision transformers: the blocks at 1/6,
    1/3, 1/2, 3/4 and all of the depth, 2, 4, 6, 9 and 12 of 12.
    """
    families = {base.__name__ for base in type(backbone).__mro__}
    names = next((found(backbone) for family, found in _CUTS.items() if family in families), [])
    present = {name for name, _ in backbone.named_modules()}
    return names if present.issuperset(names) else []


def _pools(vgg: nn.Module) -> list[str]:
    return [name for name, module in vgg.named_modules() if isinstance(module, nn.MaxPool2d)]


def _blocks(transformer: nn.Module) -> list[str]:
    modules = dict(transformer.named_modules())
    stack = "encoder.layers" if "encoder.layers" in modules else "blocks"
    blocks = [f"{stack}.{name}" for name, _ in modules[stack].named_children()] if stack in modules else []
    return [blocks[math.ceil(len(blocks) * twelfths / 12) - 1] for twelfths in (2, 4, 6, 9, 12)] if blocks else []


_CUTS: dict[str, Callable[[nn.Module], list[str]]] = {
    "SmallResNet": lambda _: ["relu", "layer1", "layer2", "layer3"],
    "ResNet": lambda _: ["maxpool", "layer1", "layer2", "layer3", "layer4"],
    "VGG": _pools,
    "DenseNet": lambda _: [f"features.{n}" for n in ("pool0", "transition1", "transition2", "transition3", "norm5")],
    "MobileNetV2": lambda _: [f"features.{n}" for n in (3, 6, 10, 16, 18)],
    "Inception3": lambda _: ["Conv2d_1a_3x3", "Mixed_5d", "Mixed_6a", "Mixed_6e", "Mixed_7c"],
    "InceptionV3": lambda _: ["Conv2d_1a_3x3", "Mixed_5d", "Mixed_6a", "Mixed_6e", "Mixed_7c"],
    "VisionTransformer": _blocks,
}
