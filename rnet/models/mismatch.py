"""Weights that do not fit an architecture: which setting makes them fit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_POSITIONS = ("pos_embed", "pos_embedding")
"""How timm and torchvision call the embedding of a transformer's positions: (1, tokens, width)."""
_GENERAL = "Name the architecture they were made with: model.name, model.stem, model.width, the dataset's classes"


def remedy(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """What to set so that weights fit: own are the model's, theirs the file's, by name."""
    if own.keys() != theirs.keys():
        return _GENERAL
    differing = {name: (own[name].shape, theirs[name].shape) for name in own if own[name].shape != theirs[name].shape}
    found: dict[str, str] = {}
    last = next(reversed([name for name in own if name.endswith(".weight")]), "").rpartition(".")[0]
    for name, (ours, given) in differing.items():
        if len(ours) != len(given):
            return _GENERAL
        if name.endswith(_POSITIONS):
            found["size"] = _size(own, theirs, name)
        elif name == _first_convolution(own) and ours[1] != given[1]:
            found["colour"] = _colour(ours[1], given[1])
            found |= _stem(ours, given)
        elif name == _first_convolution(own):
            found |= _stem(ours, given)
        elif name.rpartition(".")[0] == last and ours[1:] == given[1:]:
            found["classes"] = (
                f"Their last layer, {last}, was trained for {given[0]} classes, and this dataset has {ours[0]}: choose "
                f"the dataset with the classes that it was trained on"
            )
        else:
            return _width(own, theirs) or _GENERAL
    return ". ".join(text for text in found.values() if text) or _GENERAL


def _size(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], positions: str) -> str:
    """The side of images whose patches are as many as the file's positions."""
    patches = next(
        (own[name].shape[-1] for name in own if name.endswith(("patch_embed.proj.weight", "conv_proj.weight"))), 0
    )
    given, ours = theirs[positions].shape[1], own[positions].shape[1]
    for beside in (1, 0, 2):  # tokens of the class, of none, of a teacher as well
        side, own_side = math.isqrt(max(0, given - beside)), math.isqrt(max(0, ours - beside))
        if patches and side**2 == given - beside and own_side**2 == ours - beside:
            return (
                f"Its positions are those of images of {side * patches} pixels: set model.input_size={side * patches}"
            )
    return ""


def _first_convolution(own: Mapping[str, Tensor]) -> str:
    return next((name for name, tensor in own.items() if tensor.ndim == 4), "")


def _colour(ours: int, given: int) -> str:
    if ours == 1:
        return (
            f"The network takes {given} channels, and the images are gray: set model.in_channels={given} to repeat them"
        )
    if given == 1:
        return f"The network takes gray images, and these have {ours} channels: set dataset.grayscale=true"
    return f"The network takes {given} channels, and the images have {ours}: choose the dataset that it was trained on"


def _stem(ours: torch.Size, given: torch.Size) -> dict[str, str]:
    if ours[2:] == given[2:]:
        return {}
    stem = "small" if ours[2] > given[2] else "imagenet"
    return {
        "stem": f"Its first convolution is {given[2]}x{given[3]} and not {ours[2]}x{ours[3]}: set model.stem={stem}"
    }


def _width(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """For rnet's own small networks, whose width is a setting."""
    if "layer3.0.shortcut.0.weight" not in own:
        return ""
    width = len(theirs["conv1.weight"])
    return f"The network's first stage has {width} channels: set model.width={width}"
