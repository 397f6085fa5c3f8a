"""Weights that do not fit: the remedy names the setting, and following it works."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from rnet.errors import UserError
from rnet.models.config import ModelConfig
from rnet.models.importing import import_weights
from rnet.models.resnet import SmallResNet
from rnet.models.stem import shrink_stem
from rnet.models.zoo import build_model


def small_resnet18() -> nn.Module:
    net = models.resnet18(num_classes=4)
    shrink_stem(net)
    return net


def colour_vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", num_classes=4, depth=2)


def torchvision_vit() -> nn.Module:
    return models.VisionTransformer(224, 32, 2, 2, 16, 32, num_classes=4)


VIT = {"name": "timm/vit_tiny_patch16_224", "options": ["depth=2"]}
CASES: dict[str, tuple[Any, dict[str, Any], int, str, dict[str, Any]]] = {
    "a ViT of larger images": (
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=4, depth=2, in_chans=1), VIT, 1,
        "positions are those of images of 224 pixels: set model.input_size=224", {"input_size": 224},
    ),
    "a ViT of larger images and colours": (
        colour_vit, VIT, 1, "set model.input_size=224.*set model.in_channels=3", {"input_size": 224, "in_channels": 3},
    ),
    "a ViT with a distillation token": (
        lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, depth=2),
        {"name": "timm/deit_tiny_distilled_patch16_224", "options": ["depth=2"]}, 3, "set model.input_size=224",
        {"input_size": 224},
    ),
    "a colour network on gray images": (
        lambda: models.resnet18(num_classes=4), {"name": "resnet18", "stem": "imagenet"}, 1,
        "the images are gray: set model.in_channels=3", {"in_channels": 3},
    ),
    "the other stem": (
        lambda: models.resnet18(num_classes=4), {"name": "resnet18", "stem": "small"}, 3,
        "is 7x7 and not 3x3: set model.stem=imagenet", {"stem": "imagenet"},
    ),
    "the small stem": (
        small_resnet18, {"name": "resnet18", "stem": "imagenet"}, 3, "is 3x3 and not 7x7: set model.stem=small",
        {"stem": "small"},
    ),
    "a small stem of colours on gray images": (
        small_resnet18, {"name": "resnet18", "stem": "imagenet"}, 1, "set model.in_channels=3.*set model.stem=small",
        {"stem": "small", "in_channels": 3},
    ),
    "another width": (lambda: SmallResNet(4, 3, 6), {"name": "resnet8"}, 3, "set model.width=6", {"width": 6}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_remedy_names_what_cures_it_and_it_does(case: str, tmp_path: Path) -> None:
    make, settings, channels, said, cure = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(make().state_dict(), tmp_path / "w.pt")
    sizes: dict[str, Any] = {"num_classes": 4, "channels": channels, "image_size": 32, "seed": 0}
    sizes |= {"mean_C": [0.5] * channels, "std_C": [0.5] * channels}
    with pytest.raises(UserError, match=said) as refusal:
        import_weights(build_model(ModelConfig(**settings), **sizes), tmp_path / "w.pt")
    assert "\n" not in str(refusal.value)
    model = build_model(ModelConfig(**{**settings, **cure}), **sizes)
    import_weights(model, tmp_path / "w.pt")
    assert model.eval()(torch.rand(2, channels, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: models.resnet18(num_classes=6), "was trained for 6 classes, and this dataset has 4"),
        (lambda: timm.create_model("resnet18", num_classes=4, in_chans=1), "set dataset.grayscale=true"),
        (lambda: models.resnet34(num_classes=4), "Name the architecture"),
    ],
)
def test_what_no_setting_of_the_model_cures_is_said(make: Any, said: str, tmp_path: Path) -> None:
    torch.save(make().state_dict(), tmp_path / "w.pt")
    sizes: dict[str, Any] = {"num_classes": 4, "channels": 3, "image_size": 32, "seed": 0}
    model = build_model(ModelConfig(name="resnet18", stem="imagenet"), mean_C=[0.5] * 3, std_C=[0.5] * 3, **sizes)
    with pytest.raises(UserError, match=said):
        import_weights(model, tmp_path / "w.pt")
